package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"kijabi.dev/cli/internal/install"
	"kijabi.dev/cli/internal/output"
	"kijabi.dev/cli/internal/remote"
)

// installScript unpacks the archive from its input beside what is there, checks it and
// moves it into place. $1 is the version, $2 the digest of SHA256SUMS, $3 is "switch" if
// /opt/kijabi shall point to it.
const installScript = `set -eu
new=/opt/.kijabi-new
trap 'rm -rf "$new"' EXIT
rm -rf "$new"
mkdir -p /opt
mkdir -m 700 "$new"
cd "$new"
tar -xzof -
cd "kijabi-$1"
if [ "$(sha256sum <SHA256SUMS | cut -d ' ' -f 1)" != "$2" ] || ! sha256sum -c SHA256SUMS >/dev/null 2>&1; then
	echo "Error: the archive did not arrive as it was sent" >&2
	exit 1
fi
cd ..
if [ -e "/opt/kijabi-$1" ]; then mv "/opt/kijabi-$1" old; fi
mv "kijabi-$1" "/opt/kijabi-$1"
if [ "$3" = switch ]; then
	if [ -e /opt/kijabi ] && [ ! -L /opt/kijabi ]; then
		echo "Error: /opt/kijabi is no symbolic link: move it away" >&2
		exit 1
	fi
	ln -s "kijabi-$1" link
	mv -T link /opt/kijabi
fi`

// switchScript makes /opt/kijabi point to programs that are there already.
const switchScript = `set -eu
rm -f /opt/.kijabi-link
ln -s "kijabi-$1" /opt/.kijabi-link
mv -T /opt/.kijabi-link /opt/kijabi`

// upload puts the programs on a machine.
func (r *run) upload(ctx context.Context, m Shell, host Host, step Step) error {
	began := time.Now()
	if step.Action == Install && r.facts[host.Name].Programs[step.Bundle.Version] == step.Bundle.Sums {
		if err := m.Run(ctx, remote.Script{Text: switchScript, Args: []string{step.Bundle.Version}}); err != nil {
			return fmt.Errorf("take programs %s into use: %w", step.Bundle.Version, err)
		}
		return nil
	}
	file, err := os.Open(step.Bundle.Path)
	if err != nil {
		return fmt.Errorf("bundle: %w", err)
	}
	defer func() { _ = file.Close() }()
	how := "switch"
	if step.Action == Upload {
		how = "beside"
	}
	counted := &counter{Reader: file, said: began, say: func(sent int64) {
		r.Progress.Say("%s: programs: %d of %d MiB sent", host.Name, sent>>20, step.Bundle.Bytes>>20)
	}}
	err = m.Run(ctx, remote.Script{Text: installScript, Args: []string{step.Bundle.Version, step.Bundle.Sums, how}, Input: counted})
	var exit *remote.ExitError
	switch {
	case errors.As(err, &exit) && strings.Contains(exit.Stderr, "No space left on device"):
		return fmt.Errorf("install programs: the disk is full: make room in /opt (%d MiB were free; they take about %d) and run this again",
			r.facts[host.Name].FreeMiB, 3*step.Bundle.Bytes>>20)
	case err != nil:
		return fmt.Errorf("install programs: %w", err)
	}
	r.Progress.Say("%s: programs %s installed (%d MiB in %.1f s)", host.Name, step.Bundle.Version, step.Bundle.Bytes>>20, time.Since(began).Seconds())
	return nil
}

// counter says every few seconds how much was read.
type counter struct {
	io.Reader
	read int64
	said time.Time
	say  func(read int64)
}

func (c *counter) Read(into []byte) (int, error) {
	n, err := c.Reader.Read(into)
	c.read += int64(n)
	if time.Since(c.said) > 5*time.Second {
		c.said = time.Now()
		c.say(c.read)
	}
	return n, err
}

// program is a kijabi command to run on a machine.
type program struct {
	args  []string
	token string
}

// exec runs a kijabi command and passes its progress on. A failure is one line.
func (r *run) exec(ctx context.Context, m Shell, host Host, what string, p program) error {
	err := m.Exec(ctx, remote.Program{
		Argv: append([]string{r.program(host.Name)}, p.args...), Env: []string{"KIJABI_PROGRESS=lines"},
		SecretFlag: "--token", Secret: p.token,
		Line: func(line string) bool {
			text, ok := strings.CutPrefix(line, output.LineMark)
			if ok {
				r.Progress.Say("%s: %s", host.Name, strings.TrimPrefix(text, host.Name+": "))
			}
			return ok
		},
	})
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// report is the part of `kijabi preflight -o json` that is looked at.
type report struct {
	Findings []struct {
		Check   string `json:"check"`
		Level   string `json:"level"`
		Text    string `json:"text"`
		Fix     string `json:"fix"`
		Ignored bool   `json:"ignored"`
	} `json:"findings"`
}

// check runs the preflight checks, where the programs have them. Warnings are said.
func (r *run) check(ctx context.Context, m Shell, host Host, step Step) error {
	program := r.program(host.Name)
	probe := remote.Script{Text: `"$1" preflight --help >/dev/null 2>&1`, Args: []string{program}}
	var failed *remote.ExitError
	if err := m.Run(ctx, probe); errors.As(err, &failed) {
		return nil
	} else if err != nil {
		return err
	}
	args := append([]string{program, "preflight", "--role", string(host.Role), "-o", "json"}, r.memberFlags(host, step)...)
	var out bytes.Buffer
	err := m.Run(ctx, remote.Script{Text: `"$@"`, Args: args, Output: &out})
	if err != nil && !errors.As(err, &failed) {
		return err
	}
	var found report
	if jsonErr := json.Unmarshal(out.Bytes(), &found); jsonErr != nil {
		return fmt.Errorf("preflight: %w", errors.Join(err, jsonErr))
	}
	var faults []string
	for _, f := range found.Findings {
		text := strings.TrimSuffix(fmt.Sprintf("%s: %s: %s", f.Check, f.Text, f.Fix), ": ")
		switch {
		case f.Level == "failure" && !f.Ignored:
			faults = append(faults, text)
		case f.Level != "ok":
			r.Progress.Say("%s: warning: %s", host.Name, text)
		}
	}
	if len(faults) > 0 {
		return fmt.Errorf("preflight: %s", strings.Join(faults, "; "))
	}
	return nil
}

// memberFlags are those that preflight, init and the joins share.
func (r *run) memberFlags(host Host, step Step) []string {
	flags := []string{"--name", host.Name}
	if step.Advertise != "" {
		flags = append(flags, "--advertise-address", step.Advertise)
	}
	if r.IgnorePreflight != "" {
		flags = append(flags, "--ignore-preflight", r.IgnorePreflight)
	}
	return flags
}

// found makes the first master, which is asked from now on.
func (r *run) found(ctx context.Context, m Shell, host Host, step Step) error {
	if err := r.exec(ctx, m, host, "found the cluster", program{args: append([]string{"master", "init"}, r.memberFlags(host, step)...)}); err != nil {
		return err
	}
	member, err := readMember(ctx, m)
	if err != nil {
		return err
	}
	r.anchor, r.at = host.Name, member.Address
	return nil
}

// readMember reads what a machine has just become.
func readMember(ctx context.Context, m Shell) (*install.Member, error) {
	var out bytes.Buffer
	if err := m.Run(ctx, remote.Script{Text: stateScript + `cat "$state/member.json"`, Output: &out}); err != nil {
		return nil, err
	}
	var member install.Member
	if err := json.Unmarshal(out.Bytes(), &member); err != nil {
		return nil, fmt.Errorf("its member.json: %w", err)
	}
	return &member, nil
}

func (r *run) joinOne(ctx context.Context, m Shell, host Host, step Step) error {
	token, err := r.token(ctx, r.anchor, host.Role)
	if err != nil {
		return err
	}
	args := append([]string{string(host.Role), "join", r.at}, r.memberFlags(host, step)...)
	return r.exec(ctx, m, host, "join as "+string(host.Role), program{args: args, token: token})
}

// adjust sets labels and taint of a machine's Node.
func (r *run) adjust(ctx context.Context, host Host, step Step) error {
	if len(step.Labels) > 0 {
		args := []string{"kubectl", "label", "node", host.Name, "--overwrite"}
		for _, key := range slices.Sorted(maps.Keys(step.Labels)) {
			args = append(args, key+"="+step.Labels[key])
		}
		if _, err := r.ask(ctx, r.anchor, args...); err != nil {
			return fmt.Errorf("set its labels: %w", err)
		}
	}
	if step.Taint != nil {
		change := masterTaint + ":NoSchedule"
		if !*step.Taint {
			change += "-"
		}
		if _, err := r.ask(ctx, r.anchor, "kubectl", "taint", "node", host.Name, "--overwrite", change); err != nil {
			return fmt.Errorf("change its taint: %w", err)
		}
	}
	r.Progress.Say("%s: %s", host.Name, step.adjustText())
	return nil
}

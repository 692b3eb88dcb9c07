package deploy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"kijabi.dev/cli/internal/install"
	"kijabi.dev/cli/internal/remote"
)

// Facts are what a machine says of itself.
type Facts struct {
	// Err is why it could not be asked; the rest is empty then.
	Err error
	// Arch as Go calls it.
	Arch string
	// Addresses are its IPs.
	Addresses []string
	// Missing are tools that installing needs.
	Missing []string
	// Services is whether a service manager runs that we can use.
	Services bool
	// FreeMiB in /opt.
	FreeMiB int64
	// Current is the version that /opt/kijabi points to.
	Current string
	// Programs are the digests of the bundles in /opt, by version.
	Programs map[string]string
	// Partial is an installation that did not finish.
	Partial bool
	// Member is what it is a member of, if it is.
	Member *install.Member
}

// factsScript prints one fact a line, and member.json as the last.
const factsScript = `echo arch "$(uname -s)" "$(uname -m)"
echo addresses $(hostname -I 2>/dev/null || hostname -i 2>/dev/null)
if [ -S /run/kijabi/init.sock ] || [ -d /run/systemd/system ]; then echo services; fi
for tool in tar gzip sha256sum mktemp env; do command -v "$tool" >/dev/null || echo missing "$tool"; done
echo free $(df -Pm /opt 2>/dev/null | awk 'NR == 2 { print $4 }')
[ ! -L /opt/kijabi ] || echo current "$(readlink /opt/kijabi)"
for dir in /opt/kijabi-*; do
	[ ! -f "$dir/SHA256SUMS" ] || echo programs "${dir#/opt/kijabi-}" "$(sha256sum <"$dir/SHA256SUMS" | cut -d ' ' -f 1)"
done
` + stateScript + `if [ -f "$state/member.json" ]; then
	echo member
	cat "$state/member.json"
elif [ -e "$state/pki" ] || [ -e /etc/kijabi/kubelet.yaml ]; then
	echo partial
fi`

// stateScript finds the state directory, which may have been chosen when the machine
// was installed.
const stateScript = `state=$(sed -n 's|^dataDir: *"\{0,1\}\(/.*\)/kubelet"\{0,1\}$|\1|p' /etc/kijabi/kubelet.yaml 2>/dev/null)
state=${state:-/var/lib/kijabi}
`

// gather asks a machine.
func gather(ctx context.Context, m Shell) Facts {
	var out bytes.Buffer
	if err := m.Run(ctx, remote.Script{Text: factsScript, Output: &out}); err != nil {
		return Facts{Err: fmt.Errorf("ask the machine what it is: %w", err)}
	}
	facts, err := parseFacts(out.String())
	if err != nil {
		return Facts{Err: err}
	}
	return facts
}

func parseFacts(text string) (Facts, error) {
	facts := Facts{Programs: map[string]string{}}
	text, member, isMember := strings.Cut(text, "\nmember\n")
	if isMember {
		facts.Member = &install.Member{}
		if err := json.Unmarshal([]byte(member), facts.Member); err != nil {
			return Facts{}, fmt.Errorf("its /var/lib/kijabi/member.json: %w: run `kijabi reset` on it", err)
		}
	}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		values := fields[1:]
		switch {
		case fields[0] == "arch" && len(values) == 2:
			if values[0] != "Linux" {
				return Facts{}, fmt.Errorf("it runs %s: Kijabi needs Linux", values[0])
			}
			facts.Arch = goArch(values[1])
		case fields[0] == "addresses":
			facts.Addresses = values
		case fields[0] == "services":
			facts.Services = true
		case fields[0] == "missing":
			facts.Missing = append(facts.Missing, values...)
		case fields[0] == "free" && len(values) == 1:
			facts.FreeMiB, _ = strconv.ParseInt(values[0], 10, 64)
		case fields[0] == "current" && len(values) == 1:
			facts.Current = strings.TrimPrefix(strings.TrimPrefix(values[0], "/opt/"), "kijabi-")
		case fields[0] == "programs" && len(values) == 2:
			facts.Programs[values[0]] = values[1]
		case fields[0] == "partial":
			facts.Partial = true
		}
	}
	if facts.Arch == "" {
		return Facts{}, fmt.Errorf("it does not say what it is: is there a POSIX shell? it printed %q", text)
	}
	return facts, nil
}

func goArch(machine string) string {
	switch machine {
	case "x86_64":
		return "amd64"
	case "aarch64":
		return "arm64"
	default:
		return machine
	}
}

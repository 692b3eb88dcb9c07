package install

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"kijabi.dev/platform/atomicfile"
	configv1 "kijabi.dev/platform/config/v1"
	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/rpc"
	mastersv1pb "kijabi.dev/proto/gen/kijabi/masters/v1"

	"kijabi.dev/cli/internal/machine/supervisor"
	"kijabi.dev/cli/internal/output"
)

// Options of an installation.
type Options struct {
	// Layout of the machine's files. Required.
	Layout Layout
	// Said are the machine's options; the fields here win. The layout holds the
	// directories already.
	Said configv1.MemberOptions
	// Name of the machine; default that of Said, or its host name.
	Name string
	// Address others reach the machine at; default that of Said, or of its default route.
	Address string
	// BinDir holds the programs; default the directory of the running one.
	BinDir string
	// Services is the machine's service manager. Required.
	Services Services
	// ProgramsElsewhere is set where the programs are not this machine's files but
	// those of containers. BinDir is then where they find each other, and holds ctr and
	// the images here as well.
	ProgramsElsewhere bool
	// Progress is told each step. May be nil.
	Progress *output.Progress
	// Timeout of waiting for the programs to be healthy; default 2 min.
	Timeout time.Duration
	// IgnorePreflight names checks of package preflight whose failure is accepted.
	IgnorePreflight []string
}

// Member is what an installation leaves in member.json, as its last step.
type Member struct {
	// Name of the machine.
	Name string `json:"name"`
	// Address it was installed with.
	Address string `json:"address"`
	// Master or node.
	Master bool `json:"master"`
	// ClusterID it belongs to.
	ClusterID string `json:"clusterID"`
	// BinDir its programs are in.
	BinDir string `json:"binDir"`
	// Since is when it became a member.
	Since time.Time `json:"since"`
}

// ReadMember returns what the machine is a member of; ok is false if of nothing.
func ReadMember(layout Layout) (member Member, ok bool, err error) {
	content, err := os.ReadFile(layout.member())
	if errors.Is(err, os.ErrNotExist) {
		return Member{}, false, nil
	}
	if err != nil {
		return Member{}, false, err
	}
	if err := json.Unmarshal(content, &member); err != nil {
		return Member{}, false, fmt.Errorf("%s: %w", layout.member(), err)
	}
	return member, true, nil
}

// complete fills in defaults and checks that the machine can become a member, by way of
// the master at join if there is one. Nothing is changed.
func (o *Options) complete(ctx context.Context, master bool, join string) error {
	if os.Geteuid() != 0 {
		return errors.New("a machine is installed by root: run this with sudo")
	}
	if o.Timeout == 0 {
		o.Timeout = 2 * time.Minute
	}
	o.Name, o.Address = cmp.Or(o.Name, o.Said.Name), cmp.Or(o.Address, o.Said.AdvertiseAddress)
	if err := o.resolveName(); err != nil {
		return err
	}
	if err := checkName(o.Name); err != nil {
		return err
	}
	if o.BinDir == "" {
		program, err := os.Executable()
		if err != nil {
			return fmt.Errorf("path of this program: %w", err)
		}
		o.BinDir = filepath.Dir(program)
	}
	if !o.ProgramsElsewhere {
		if err := CheckPrograms(o.BinDir); err != nil {
			return err
		}
	}
	if err := o.checkFresh(ctx, join); err != nil {
		return err
	}
	if err := errors.Join(o.checkDirectories(), o.checkEtcd(master)); err != nil {
		return err
	}
	if err := o.resolveAddress(); err != nil {
		return err
	}
	return o.preflight(ctx, master, join)
}

// resolveName gives the machine its host name, if it was given none.
func (o *Options) resolveName() error {
	if o.Name != "" {
		return nil
	}
	name, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	o.Name = strings.ToLower(name)
	return nil
}

func checkName(name string) error {
	if name == "" || len(name) > 63 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-.") != "" ||
		strings.HasPrefix(name, "-") || strings.HasSuffix(name, "-") {
		return fmt.Errorf("machine name %q is no host name: choose another with --name (small letters, digits, dashes)", name)
	}
	return nil
}

// CheckPrograms reports programs that are missing in dir.
func CheckPrograms(dir string) error {
	var missing []string
	for _, program := range Programs() {
		if info, err := os.Stat(filepath.Join(dir, program)); err != nil || info.Mode()&0o111 == 0 {
			missing = append(missing, program)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("programs are missing in %s: %s; build them with `make build` or name their directory with --bin",
			dir, strings.Join(missing, ", "))
	}
	return nil
}

// checkFresh refuses a machine that is a member or was left half made. If it joins by a
// master that knows it as removed, that is said.
func (o *Options) checkFresh(ctx context.Context, join string) error {
	member, ok, err := ReadMember(o.Layout)
	if err != nil {
		return err
	}
	if ok && join != "" && o.Layout.removed(ctx, member, join) {
		return fmt.Errorf("this machine was %s and has been removed from its masters: run `kijabi reset` on it, then join again", member)
	}
	if ok {
		return fmt.Errorf("this machine is already %s: run `kijabi reset` first to take it out", member)
	}
	if path := o.Layout.Unfinished(); path != "" {
		return fmt.Errorf("%s is left of an installation that did not finish: run `kijabi reset` first", path)
	}
	return nil
}

// removed asks the master at join whether a master of its own cluster is no longer on the
// roster. It is false when that cannot be known.
func (l Layout) removed(ctx context.Context, member Member, join string) bool {
	if !member.Master {
		return false
	}
	id, err := pki.OpenIdentity(l.leaf(pki.ComponentAPIServer))
	if err != nil {
		return false
	}
	conn, err := rpc.Dial(join, id)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := mastersv1pb.NewMastersServiceClient(conn).Status(ctx, &mastersv1pb.StatusRequest{})
	if err != nil || answer.GetClusterId() != member.ClusterID {
		return false
	}
	return !slices.ContainsFunc(answer.GetMembers(), func(m *mastersv1pb.Member) bool { return m.GetName() == member.Name })
}

// Unfinished names a file of an installation that was cut off; empty if there is none.
func (l Layout) Unfinished() string {
	for _, path := range []string{l.config("kubelet"), l.pki("ca.crt"), l.directories()} {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

func (o *Options) resolveAddress() error {
	if o.Address == "" {
		// No packet is sent: the kernel only chooses the source address.
		conn, err := new(net.Dialer).DialContext(context.Background(), "udp4", "192.0.2.1:9")
		if err != nil {
			return fmt.Errorf("this machine has no default route to find its address by: give it with --advertise-address (%w)", err)
		}
		defer func() { _ = conn.Close() }()
		host, _, err := net.SplitHostPort(conn.LocalAddr().String())
		if err != nil {
			return err
		}
		o.Address = host
	}
	if net.ParseIP(o.Address) == nil {
		return fmt.Errorf("address %q is no IP address: give one of this machine with --advertise-address", o.Address)
	}
	return nil
}

// file is one to write.
type file struct {
	path    string
	content []byte
	mode    os.FileMode
}

// files are gathered first and written together, so that a failure before that leaves
// nothing.
type files struct {
	all     []file
	written []string
	dirs    []string
}

func (f *files) add(path string, content []byte, mode os.FileMode) {
	f.all = append(f.all, file{path, content, mode})
}

// write writes all files. On failure undo removes what was written.
func (f *files) write() error {
	for _, file := range f.all {
		mode := os.FileMode(0o755)
		if file.mode&0o077 == 0 {
			mode = 0o700
		}
		dir := filepath.Dir(file.path)
		if _, err := os.Stat(dir); err != nil {
			if err := os.MkdirAll(dir, mode); err != nil {
				return fmt.Errorf("write %s: %w", file.path, err)
			}
			f.dirs = append(f.dirs, dir)
		}
		f.written = append(f.written, file.path)
		if err := atomicfile.Write(file.path, file.content, file.mode); err != nil {
			return err
		}
	}
	return nil
}

func (f *files) undo() {
	for _, path := range f.written {
		_ = os.Remove(path)
	}
	for _, dir := range slices.Backward(f.dirs) {
		_ = os.Remove(dir)
	}
}

// addConfigurations adds every program's configuration.
func (f *files) addConfigurations(s settings) error {
	for _, c := range components(s.master) {
		content, err := s.configuration(c)
		if err != nil {
			return err
		}
		f.add(s.layout.config(c.program), content, 0o644)
	}
	return nil
}

// units returns the units of a member.
func (s settings) units() []supervisor.Unit {
	path := "PATH=" + s.binDir + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	var units []supervisor.Unit
	for _, c := range components(s.master) {
		unit := supervisor.Unit{
			Name: c.program, Description: "Kijabi " + c.program, After: c.after, Env: []string{path},
			Exec:                   []string{filepath.Join(s.binDir, c.program), "--config", s.layout.config(c.program)},
			FileDescriptorStoreMax: c.keepSockets,
			RawNetwork:             c.program == apiserver && len(s.said.VIP.Addresses) > 0,
		}
		if c.keepChildren {
			unit.KillMode = supervisor.KillProcess
			unit.StopTimeout = metav1.Duration{Duration: 30 * time.Second}
		}
		units = append(units, unit)
	}
	return units
}

func unitNames(master bool) []string {
	var names []string
	for _, c := range components(master) {
		names = append(names, c.program)
	}
	return names
}

// settings are what the options come to, before anything of the cluster is known.
func (o *Options) settings(master bool) settings {
	return settings{layout: o.Layout, name: o.Name, address: o.Address, binDir: o.BinDir, master: master, said: o.Said}
}

// writeMember declares the machine a member.
func (o *Options) writeMember(s settings) error {
	content, err := json.MarshalIndent(Member{
		Name: s.name, Address: s.address, Master: s.master, ClusterID: s.clusterID, BinDir: s.binDir, Since: time.Now().UTC(),
	}, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(s.layout.member(), append(content, '\n'), 0o644)
}

// rollback undoes an installation that failed. It does not stop at errors: what can be
// removed is.
func (o *Options) rollback(ctx context.Context, s settings) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	_ = Reset(ctx, ResetOptions{Layout: s.layout, Services: o.Services, Local: true})
}

// randomID returns 16 random bytes in hexadecimal.
func randomID() (string, error) {
	raw := make([]byte, 16)
	if _, err := rand.Read(raw); err != nil {
		return "", err
	}
	return hex.EncodeToString(raw), nil
}

package deploy

import (
	"os"
	"path/filepath"
	"strings"

	"kijabi.dev/test/harness"
)

// addresses of the fleet's machines.
func addresses() map[string]string {
	return map[string]string{
		"master-1": "10.102.0.11", "master-2": "10.102.0.12", "master-3": "10.102.0.13",
		"node-1": "10.102.0.21", "node-2": "10.102.0.22",
	}
}

// machines starts the fleet, each machine with an SSH server that lets the laptop in.
func (l *laptop) machines(t *harness.T) {
	t.Helper()
	l.Up(t, 3, 2, "--bare")
	allowed := makeKey(t, l.path("key"))
	for name := range addresses() {
		l.prepareSSH(t, name, allowed)
		l.startSSH(t, name)
	}
}

// sshDir is a directory that a machine sees under the same path as the host.
func (l *laptop) sshDir(name string) string { return filepath.Join(l.MachineDir(name), "ssh") }

// prepareSSH writes what the machine's SSH server needs, and the users it knows.
func (l *laptop) prepareSSH(t *harness.T, name, allowed string) {
	t.Helper()
	dir := l.sshDir(name)
	if err := os.MkdirAll(filepath.Join(dir, "opt"), 0o755); err != nil {
		t.Fatal(err)
	}
	makeKey(t, filepath.Join(dir, "host"))
	for file, content := range map[string]string{
		"passwd": "root:x:0:0::/root:/bin/sh\nsshd:x:65533:65534::/run/sshd:/bin/false\n",
		"shadow": "root:*:19000::::::\nsshd:*:19000::::::\n",
		"keys":   allowed,
		"config": strings.ReplaceAll("HostKey DIR/host\nAuthorizedKeysFile DIR/keys\nPidFile none\nStrictModes no\nUsePAM no\n"+
			"PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n", "DIR", dir),
	} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"passwd", "keys"} {
		if err := os.Chmod(filepath.Join(dir, file), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// A machine sees the host's files, except for those in /tmp, where this may be.
	for _, from := range sshd(t) {
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(from)), content, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// startSSH starts the server after the machine has started.
func (l *laptop) startSSH(t *harness.T, name string) {
	t.Helper()
	l.inside(t, name, `set -e
mount --bind "$1/opt" /opt
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/shadow" /etc/shadow
mkdir -p /run/sshd
LD_LIBRARY_PATH=$1 "$1/sshd" -f "$1/config"`, l.sshDir(name))
}

// sshd finds the program and libraries that it may lack: $KIJABI_SSHD, the system's, or
// the one that deploy/deps.sh unpacks.
func sshd(t *harness.T) []string {
	t.Helper()
	cache := filepath.Join(harness.Root(t), ".cache", "debian")
	for _, path := range []string{os.Getenv("KIJABI_SSHD"), "/usr/sbin/sshd", filepath.Join(cache, "usr/sbin/sshd")} {
		if _, err := os.Stat(path); path != "" && err == nil {
			libraries, _ := filepath.Glob(filepath.Join(cache, "usr/lib/*-linux-*/lib*.so.*"))
			return append([]string{path}, libraries...)
		}
	}
	t.Fatal("there is no sshd: run `sh deploy/deps.sh test`, or name one by KIJABI_SSHD")
	return nil
}

// running returns the process of each program, as "machine/program".
func (l *laptop) running(t *harness.T) map[string]int {
	t.Helper()
	all := map[string]int{}
	for _, machine := range l.Machines(t) {
		for _, unit := range machine.Units {
			all[machine.Name+"/"+unit.Name] = unit.PID
		}
	}
	return all
}

// clean looks for what is left of an installation in a machine.
func (l *laptop) clean(t *harness.T, name string) {
	t.Helper()
	left := l.inside(t, name, `find /etc/kijabi /opt -mindepth 1 | head; find /var/lib/kijabi -name member.json -o -name '*.key' | head
grep -h kijabi /proc/net/dev; grep /var/lib/kijabi/ /proc/self/mountinfo; true`)
	if strings.TrimSpace(left) != "" {
		t.Errorf("left in machine %s:\n%s", name, left)
	}
	for program := range l.running(t) {
		if strings.HasPrefix(program, name+"/") {
			t.Errorf("left in machine %s: unit %s", name, program)
		}
	}
}

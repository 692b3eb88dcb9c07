package install

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// published is where the units lie for people to read.
const published = "../../../deploy/systemd"

// unitFiles has the units of a master, which has a node's as well, written into a
// directory for programs in binDir, as an installation does.
func unitFiles(t *testing.T, layout Layout, binDir string, vip ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	services := newSystemd(layout, dir)
	services.manager.Systemctl = func(_ context.Context, args ...string) ([]byte, error) {
		if args[0] == "--version" {
			return []byte("systemd 252 (252.38-1~deb12u1)\n"), nil
		}
		return nil, nil
	}
	s := settings{layout: layout, binDir: binDir, master: true}
	s.said.VIP.Addresses = vip
	if err := services.Install(t.Context(), s.units()); err != nil {
		t.Fatal(err)
	}
	return dir
}

// emptyPrograms makes a bin directory whose programs do nothing.
func emptyPrograms(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "bin")
	for _, program := range Programs() {
		path := filepath.Join(bin, program)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return bin
}

// testLayout is a layout below the directory of the test, which is not in /tmp as far as
// units are concerned.
func testLayout(t *testing.T) Layout {
	t.Helper()
	dir := t.TempDir()
	return Layout{ConfigDir: filepath.Join(dir, "etc"), StateDir: filepath.Join(dir, "lib"), RunDir: filepath.Join(dir, "run")}
}

func unitsIn(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{"*.service", "*.target"} {
		paths, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, paths...)
	}
	slices.Sort(found)
	return found
}

// TestPublishedUnits keeps deploy/systemd equal to what an installation with the default
// layout and programs in /opt/kijabi/bin writes. KIJABI_WRITE_UNITS=1 writes them.
func TestPublishedUnits(t *testing.T) {
	layout := testLayout(t)
	written := unitFiles(t, layout, "/opt/kijabi/bin")
	names := map[string]bool{}
	for _, path := range unitsIn(t, written) {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		usual := DefaultLayout()
		text := strings.NewReplacer(layout.ConfigDir, usual.ConfigDir, layout.StateDir, usual.StateDir, layout.RunDir, usual.RunDir).Replace(string(content))
		name := filepath.Base(path)
		names[name] = true
		if os.Getenv("KIJABI_WRITE_UNITS") != "" {
			if err := os.WriteFile(filepath.Join(published, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		known, err := os.ReadFile(filepath.Join(published, name))
		if err != nil {
			t.Error(err)
			continue
		}
		if diff := cmp.Diff(string(known), text); diff != "" {
			t.Errorf("%s is not what is installed; KIJABI_WRITE_UNITS=1 go test ./internal/install -run TestPublishedUnits writes it\n%s", name, diff)
		}
	}
	for _, path := range unitsIn(t, published) {
		if !names[filepath.Base(path)] {
			t.Errorf("%s is installed nowhere", path)
		}
	}
}

// TestSystemdFindsNothingToSay has systemd itself read the units.
func TestSystemdFindsNothingToSay(t *testing.T) {
	for name, home := range map[string]string{"programs of the system": "", "programs in a home": "/root/"} {
		t.Run(name, func(t *testing.T) {
			bin := emptyPrograms(t)
			dir := unitFiles(t, testLayout(t), outsideTmp(t, bin, home))
			args := append([]string{"verify", "--man=no", "--recursive-errors=yes"}, unitsIn(t, dir)...)
			out, err := exec.CommandContext(t.Context(), "systemd-analyze", args...).CombinedOutput()
			if err != nil || len(out) > 0 {
				t.Errorf("systemd-analyze verify: %v\n%s", err, out)
			}
		})
	}
}

// outsideTmp makes the bin directory known by a name outside of /tmp, where programs are
// not accepted.
func outsideTmp(t *testing.T, bin, home string) string {
	t.Helper()
	if home == "" {
		home = "/opt/"
	}
	dir, err := os.MkdirTemp(home, "kijabi-test-") //nolint:usetesting // t.TempDir is below /tmp
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if err := os.CopyFS(filepath.Join(dir, "bin"), os.DirFS(bin)); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "bin")
}

// TestExposure holds each unit below what `systemd-analyze security` gave when it was
// last looked at, in tenths: 100 is a program without any bounds.
func TestExposure(t *testing.T) {
	limits := map[string]int{
		"apiserver": 18, "scheduler": 18, "controller-manager": 18, "cloud-controller-manager": 18, "cloud-provider-local": 18,
		"network-agent": 20, "kube-proxy": 20, "dns": 21,
		// They mount volumes and start containers, which inherit what binds them.
		"kubelet": 96, "containerd": 96,
	}
	dir := unitFiles(t, testLayout(t), outsideTmp(t, emptyPrograms(t), ""))
	for _, c := range components(true) {
		limit, ok := limits[c.program]
		if !ok {
			t.Errorf("no limit for %s", c.program)
			continue
		}
		out, err := exec.CommandContext(t.Context(), "systemd-analyze", "security", "--no-pager", "--offline=yes",
			"--threshold="+strconv.Itoa(limit), filepath.Join(dir, unitPrefix+c.program+".service")).CombinedOutput()
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		t.Logf("%s: %s", c.program, lines[len(lines)-1])
		if err != nil {
			t.Errorf("%s: %v\n%s", c.program, err, out)
		}
	}
}

// TestVirtualAddressNeedsMore: only a master that may hold a virtual address can change the network,
// and only its apiserver can send what announces it.
func TestVirtualAddressNeedsMore(t *testing.T) {
	bin := outsideTmp(t, emptyPrograms(t), "")
	for _, vip := range [][]string{nil, {"10.0.0.10"}} {
		path := filepath.Join(unitFiles(t, testLayout(t), bin, vip...), unitPrefix+apiserver+".service")
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(content), "\n")
		with := slices.Contains(lines, "CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_RAW") &&
			slices.Contains(lines, "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK AF_PACKET")
		without := slices.Contains(lines, "CapabilityBoundingSet=") && slices.Contains(lines, "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6")
		if with != (len(vip) > 0) || without != (len(vip) == 0) {
			t.Errorf("with virtual addresses %q:\n%s", vip, content)
		}
		out, err := exec.CommandContext(t.Context(), "systemd-analyze", "security", "--no-pager", "--offline=yes", "--threshold=24", path).CombinedOutput()
		if err != nil {
			t.Errorf("systemd-analyze: %v\n%s", err, out)
		}
	}
}

func TestProgramsInTmpAreRefused(t *testing.T) {
	c, err := componentOf(apiserver)
	if err != nil {
		t.Fatal(err)
	}
	s := settings{layout: testLayout(t), binDir: "/tmp/kijabi/bin", master: true}
	for _, unit := range s.units() {
		if unit.Name != apiserver {
			continue
		}
		if _, err := c.service(unit, s.layout); err == nil || !strings.Contains(err.Error(), "/tmp is emptied") || !strings.Contains(err.Error(), "--bin") {
			t.Errorf("got %v", err)
		}
	}
}

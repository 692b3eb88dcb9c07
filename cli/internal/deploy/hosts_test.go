package deploy

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const goodHosts = `apiVersion: kijabi.dev/v1
kind: Hosts
cluster: home
bundle: out/kijabi-1-linux-amd64.tar.gz
defaults: {port: 2222, keyFile: key}
hosts:
- {name: vm1, address: 192.0.2.11, role: master, advertiseAddress: 10.0.0.11, schedulable: true}
- {name: vm2, address: "vm2.example:22", role: node, user: debian, keyFile: /k, labels: {disk: ssd}}
- {name: vm3, address: "fe80::3", role: node}
`

func TestParseHosts(t *testing.T) {
	h, err := parse([]byte(goodHosts), "/home/me")
	if err != nil {
		t.Fatal(err)
	}
	if h.Bundle != "/home/me/out/kijabi-1-linux-amd64.tar.gz" {
		t.Errorf("bundle %s", h.Bundle)
	}
	want := []Host{
		{Name: "vm1", Address: "192.0.2.11:2222", User: "root", KeyFile: "/home/me/key", Role: Master, AdvertiseAddress: "10.0.0.11", Schedulable: true},
		{Name: "vm2", Address: "vm2.example:22", User: "debian", KeyFile: "/k", Role: Node, Labels: map[string]string{"disk": "ssd"}},
		{Name: "vm3", Address: "[fe80::3]:2222", User: "root", KeyFile: "/home/me/key", Role: Node},
	}
	if diff := cmp.Diff(want, h.Hosts); diff != "" {
		t.Error(diff)
	}
}

func TestExampleIsValid(t *testing.T) {
	if _, err := Load("../../../examples/deploy/hosts.yaml"); err != nil {
		t.Error(err)
	}
}

func TestFaultsOfHosts(t *testing.T) {
	for name, test := range map[string]struct {
		change []string // pairs of old and new
		faults []string
	}{
		"all at once": {
			[]string{
				"kijabi.dev/v1", "v1", "kind: Hosts", "kind: Host", "cluster: home", "cluster: My Home", "bundle: out/kijabi-1-linux-amd64.tar.gz", "bundle: ''",
				"schedulable: true", "scheduleable: true", "name: vm2", "name: vm1", "role: node, user", "role: both, user", "fe80::3", "user@vm3",
			},
			[]string{
				`apiVersion: "v1" is not known`, `kind: "Host" is not known`, `cluster: "My Home" is no name`, "bundle: missing",
				`unknown field "hosts[0].scheduleable"`, "hosts[1].name: vm1 is that of hosts[0] already",
				`hosts[1].role: "both" is not known: write master or node`, `hosts[2].address: "user@vm3" is neither HOST nor HOST:PORT`,
			},
		},
		"two masters":     {[]string{"role: node, user", "role: master, user"}, []string{"hosts[].role: 2 masters cannot agree well: use 1, 3 or 5"}},
		"no master":       {[]string{"role: master", "role: node", ", schedulable: true", ""}, []string{"hosts[].role: 0 masters"}},
		"no hosts":        {[]string{goodHosts[strings.Index(goodHosts, "hosts:"):], ""}, []string{"hosts: missing"}},
		"same address":    {[]string{"vm2.example:22", "192.0.2.11:2222"}, []string{"hosts[1].address: 192.0.2.11:2222 is that of hosts[0] already"}},
		"no address":      {[]string{`address: "fe80::3", `, ""}, []string{"hosts[2].address: missing"}},
		"bad port":        {[]string{"vm2.example:22", "vm2.example:99999", "port: 2222", "port: 70000"}, []string{"hosts[1].address", "defaults.port: 70000"}},
		"bad advertise":   {[]string{"10.0.0.11", "vm1.example"}, []string{`hosts[0].advertiseAddress: "vm1.example" is no IP`}},
		"schedulable":     {[]string{"role: node}", "role: node, schedulable: true}"}, []string{"hosts[2].schedulable: a node is schedulable anyway"}},
		"bad label":       {[]string{"disk: ssd", "'not a key': x"}, []string{"hosts[1].labels[not a key]"}},
		"bad name":        {[]string{"name: vm3", "name: VM_3"}, []string{`hosts[2].name: "VM_3" is no host name`}},
		"twice the field": {[]string{"cluster: home", "cluster: home\ncluster: office"}, []string{`"cluster" already set`}},
		"no YAML":         {[]string{"hosts:", "hosts: ["}, []string{"yaml"}},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.NewReplacer(test.change...).Replace(goodHosts)
			_, err := parse([]byte(text), "/")
			if err == nil {
				t.Fatal("it is accepted")
			}
			for _, fault := range test.faults {
				if !strings.Contains(err.Error(), fault) {
					t.Errorf("%q is not in: %v", fault, err)
				}
			}
		})
	}
}

// writeBundle writes an archive of these files, each of which holds its own name, or the
// digests of the others.
func writeBundle(t *testing.T, path string, files ...string) {
	t.Helper()
	var content bytes.Buffer
	zipped := gzip.NewWriter(&content)
	archive := tar.NewWriter(zipped)
	for _, name := range files {
		text := name
		if top, isSums := strings.CutSuffix(name, "SHA256SUMS"); isSums {
			text = ""
			for _, other := range files {
				if other != name {
					text += fmt.Sprintf("%x  %s\n", sha256.Sum256([]byte(other)), strings.TrimPrefix(other, top))
				}
			}
		}
		if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zipped.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestOpenBundles(t *testing.T) {
	dir := t.TempDir()
	sums := "kijabi-1.2+3/SHA256SUMS"
	for _, arch := range []string{"amd64", "arm64"} {
		writeBundle(t, filepath.Join(dir, "kijabi-1.2+3-linux-"+arch+".tar.gz"), sums, "kijabi-1.2+3/bin/kijabi")
	}
	bundles, err := OpenBundles(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(fmt.Appendf(nil, "%x  bin/kijabi\n", sha256.Sum256([]byte("kijabi-1.2+3/bin/kijabi"))))
	got := bundles["arm64"]
	if len(bundles) != 2 || bundles.Version() != "1.2+3" || got.Arch != "arm64" || got.Sums != hex.EncodeToString(digest[:]) || got.Bytes == 0 {
		t.Errorf("%+v", bundles)
	}
	one, err := OpenBundles(filepath.Join(dir, "kijabi-1.2+3-linux-amd64.tar.gz"), "")
	if err != nil || len(one) != 1 {
		t.Errorf("%v %v", one, err)
	}
}

func TestBadBundles(t *testing.T) {
	for name, test := range map[string]struct {
		make func(dir string)
		part string
	}{
		"none": {func(string) {}, "holds no kijabi-VERSION-linux-ARCH.tar.gz"},
		"two versions": {func(dir string) {
			writeBundle(t, dir+"/kijabi-1-linux-amd64.tar.gz", "kijabi-1/SHA256SUMS")
			writeBundle(t, dir+"/kijabi-2-linux-arm64.tar.gz", "kijabi-2/SHA256SUMS")
		}, "keep one version"},
		"two of a kind": {func(dir string) {
			writeBundle(t, dir+"/kijabi-1-linux-amd64.tar.gz", "kijabi-1/SHA256SUMS")
			writeBundle(t, dir+"/kijabi-2-linux-amd64.tar.gz", "kijabi-2/SHA256SUMS")
		}, "both for amd64"},
		"no sums":    {func(dir string) { writeBundle(t, dir+"/kijabi-1-linux-amd64.tar.gz", "kijabi-1/bin/kijabi") }, "holds no kijabi-1/SHA256SUMS"},
		"other top":  {func(dir string) { writeBundle(t, dir+"/kijabi-1-linux-amd64.tar.gz", "kijabi-2/SHA256SUMS") }, "outside of kijabi-1"},
		"no archive": {func(dir string) { _ = os.WriteFile(dir+"/kijabi-1-linux-amd64.tar.gz", []byte("no"), 0o644) }, "make bundle"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			test.make(dir)
			if _, err := OpenBundles(dir, ""); err == nil || !strings.Contains(err.Error(), test.part) {
				t.Errorf("%v, want %q", err, test.part)
			}
		})
	}
	if _, err := OpenBundles("/nowhere", ""); err == nil || !strings.Contains(err.Error(), "make bundle") {
		t.Error(err)
	}
	path := filepath.Join(t.TempDir(), "bundle.tar.gz")
	writeBundle(t, path, "kijabi-1/SHA256SUMS")
	if _, err := OpenBundles(path, ""); err == nil || !strings.Contains(err.Error(), "is not named") {
		t.Error(err)
	}
}

func TestSignedBundles(t *testing.T) {
	dir := t.TempDir()
	archive, key := filepath.Join(dir, "kijabi-1-linux-amd64.tar.gz"), filepath.Join(dir, "kijabi.pub")
	writeBundle(t, archive, "kijabi-1/bin/kijabi", "kijabi-1/SHA256SUMS")
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	write := func(path string, content []byte) {
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(key, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	if _, err := OpenBundles(dir, key); err == nil || !strings.Contains(err.Error(), "signature of the bundle") {
		t.Errorf("without a signature: %v", err)
	}
	content, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	_, foreign, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	write(archive+".sig", ed25519.Sign(foreign, content))
	if _, err := OpenBundles(dir, key); err == nil || !strings.Contains(err.Error(), "do not install it") {
		t.Errorf("with another's signature: %v", err)
	}
	write(archive+".sig", ed25519.Sign(private, content))
	if bundles, err := OpenBundles(dir, key); err != nil || bundles["amd64"].Path != archive {
		t.Errorf("with the right signature: %v, %v", bundles, err)
	}
}

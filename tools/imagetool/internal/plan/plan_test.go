package plan

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const examplePlan = `registry: registry.example.com/shop
images:
  - name: till
    title: Till
    description: Takes the money.
    licenses: Apache-2.0
    entrypoint: [/bin/till]
    layers:
      - &base
        - {from: passwd, to: /etc/passwd, mode: "0644"}
        - {caRoots: true, to: /etc/ssl/certs/ca-certificates.crt, mode: "0644"}
        - {dir: /tmp, mode: "1777"}
      - - from: ${bin}/till
          to: /bin/till
          libraries: [{name: libcoin, version: "${coin}", license: MIT}]
        - {link: /run, to: /var/run}
  - name: shelf
    title: Shelf
    description: Holds the goods.
    licenses: MIT
    entrypoint: [/bin/shelf]
    user: "1000"
    layers:
      - *base
      - - {from: "${bin}/shelf", to: /bin/shelf}
`

// writeFiles writes files below a fresh directory.
func writeFiles(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// readExample reads the example, with its files in one directory.
func readExample(t *testing.T) (Plan, string) {
	t.Helper()
	dir := writeFiles(t, map[string]string{"plan.yaml": examplePlan, "passwd": "root", "till": "till 1", "shelf": "shelf 1"})
	read, err := Read(filepath.Join(dir, "plan.yaml"), map[string]string{"bin": dir, "coin": "7"})
	if err != nil {
		t.Fatal(err)
	}
	return read, dir
}

func TestValuesAreFilledIn(t *testing.T) {
	read, dir := readExample(t)
	base, top := read.Images[0].Layers[0], read.Images[0].Layers[1]
	if got := base[0].From; got != filepath.Join(dir, "passwd") {
		t.Errorf("relative path became %s", got)
	}
	if got := top[0]; got.From != filepath.Join(dir, "till") || got.Libraries[0].Version != "7" {
		t.Errorf("values became %+v", got)
	}
}

func TestBadPlanIsNamed(t *testing.T) {
	for name, test := range map[string]struct{ old, new, want string }{
		"no value":      {"${coin}", "${note}", "no value for note: give it with --set note=VALUE"},
		"unknown field": {"user:", "owner:", `unknown field "owner"`},
		"no title":      {"title: Shelf", "title: ''", `image "shelf": needs name, title`},
		"twice":         {"name: shelf", "name: till", "image till is given twice"},
		"no registry":   {"registry: registry.example.com/shop", "registry: ''", "needs a registry"},
		"two sources":   {"{dir: /tmp,", "{dir: /tmp, from: passwd,", `entry "/tmp": want 'dir', or 'to' and one of`},
		"no target":     {"from: passwd, to: /etc/passwd,", "from: passwd,", "want 'dir', or 'to'"},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.ReplaceAll(examplePlan, test.old, test.new)
			dir := writeFiles(t, map[string]string{"plan.yaml": text})
			_, err := Read(filepath.Join(dir, "plan.yaml"), map[string]string{"bin": dir, "coin": "7"})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want one with %q", err, test.want)
			}
		})
	}
	if _, err := Read("/does/not/exist", nil); err == nil || !strings.Contains(err.Error(), "/does/not/exist") {
		t.Errorf("missing plan: error %v", err)
	}
}

// TestReleasedImages holds the names that others rely on: deploy/compose runs these images.
func TestReleasedImages(t *testing.T) {
	values := map[string]string{"bin": "/bin", "build": "/build", "libseccomp": "2", "glibc": "2"}
	read, err := Read("../../../../deploy/images/images.yaml", values)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, one := range read.Images {
		got[read.Registry+"/"+one.Name] = strings.Join(one.Entrypoint, " ")
	}
	want := map[string]string{"registry.kijabi.dev/kijabi-node": "/usr/local/bin/kijabi-node-init"}
	for _, name := range []string{
		"apiserver", "scheduler", "controller-manager", "cloud-controller-manager", "cloud-provider-local",
		"kube-proxy", "network-agent", "dns", "kijabi", "machine",
	} {
		want["registry.kijabi.dev/"+name] = "/usr/local/bin/" + name
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("images: %s", diff)
	}
}

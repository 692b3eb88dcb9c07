package archtest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// pkg is what `go list -json` says of a package.
type pkg struct {
	ImportPath  string
	Name        string
	Doc         string
	Imports     []string
	TestImports []string
	Deps        []string
	Module      *struct{ Path string }
	Standard    bool
}

const prefix = "kijabi.dev/"

// components may import platform and proto, never each other.
var components = []string{
	"apiserver", "scheduler", "controller-manager", "cloud-controller-manager", "kubelet", "kube-proxy", "cli", "addons",
}

// onlyIn names libraries that a single place may import, and why.
var onlyIn = []struct{ library, place, reason string }{
	{"github.com/hashicorp/raft", "apiserver/internal/masters", "everybody else follows the stream with platform/election"},
	{"go.etcd.io/etcd/server/v3", "apiserver/internal/etcdnode", "one place starts the member"},
	{"go.etcd.io/etcd/etcdutl/v3", "apiserver/internal/etcdnode", "one place makes a member's data"},
	{"github.com/minio/minio-go/v7", "apiserver/internal/snapshot", "one archive is a bucket"},
	{"filippo.io/age", "apiserver/internal/snapshot", "one place knows a snapshot's form"},
	{"go.etcd.io/etcd/client/v3", "apiserver/internal/storage/etcd", "the store is etcd's only client"},
	{"k8s.io/cri-api", "kubelet/internal/runtime/cri test/bench", "the rest of the kubelet speaks its own Runtime interface"},
	{"github.com/google/nftables", "kube-proxy/internal/dataplane/nftables addons/internal/network", "rules are made where their model is"},
	{"github.com/vishvananda/netlink", "apiserver/internal/vip kube-proxy addons cli", "interfaces are changed where it is known why"},
	{"k8s.io/kubectl", "cli", "kubectl is embedded once"},
	{"golang.org/x/crypto/ssh", "cli/internal/remote", "whoever needs a machine runs commands on it by package remote"},
	{"k8s.io/apiextensions-apiserver/pkg/apiserver", "apiserver/internal/registry/customkinds", "others see rows of the table of kinds"},
	{"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation", "apiserver/internal/registry/customkinds", "others see rows of the table of kinds"},
	{"k8s.io/apiserver", "apiserver/internal/registry/customkinds apiserver/internal/admission/expression", "schemas are about its CEL types, and expressions use its functions; nothing else of it is ours to use"},
	{"k8s.io/client-go/kubernetes", "test", "our programs use platform/kube/client"},
}

// unlinked names what a program must not link, whoever imports it.
var unlinked = map[string][]string{
	"kubelet/cmd/kubelet":                                   {"github.com/hashicorp/raft", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/client/v3"},
	"kube-proxy/cmd/kube-proxy":                             {"github.com/hashicorp/raft", "go.etcd.io/etcd/client/v3", "k8s.io/cri-api"},
	"scheduler/cmd/scheduler":                               {"go.etcd.io/etcd/client/v3", "k8s.io/kubernetes"},
	"controller-manager/cmd/controller-manager":             {"go.etcd.io/etcd/client/v3", "k8s.io/kubernetes"},
	"cloud-controller-manager/cmd/cloud-controller-manager": {"go.etcd.io/etcd/client/v3"},
	// Of k8s.io/apiserver it links what the libraries for schemas and rules need.
	"apiserver/cmd/apiserver": {
		"k8s.io/kubernetes", "k8s.io/apiserver/pkg/server/options", "k8s.io/apiserver/pkg/registry", "k8s.io/apiserver/pkg/storage", "k8s.io/apiserver/pkg/endpoints/handlers",
	},
	"cli/cmd/kijabi-node-init": {"k8s.io/kubectl", "google.golang.org/grpc"},
}

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json=ImportPath,Name,Doc,Imports,TestImports,Deps,Module,Standard"}, args...)...)
	cmd.Dir = root(t)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var pkgs []pkg
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(filepath.Dir(dir))
}

// module is the top folder of one of our packages.
func module(path string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(path, prefix), "/")
	return name
}

func within(path, library string) bool {
	return path == library || strings.HasPrefix(path, library+"/")
}

func TestComponentsDoNotImportEachOther(t *testing.T) {
	for _, p := range list(t, "work") {
		own := module(p.ImportPath)
		for _, imported := range p.Imports {
			if !strings.HasPrefix(imported, prefix) {
				continue
			}
			other := module(imported)
			if other == own || other == "proto" || other == "platform" && own != "proto" {
				continue
			}
			if own == "test" && !slices.Contains(components, other) {
				continue
			}
			t.Errorf("%s imports %s: a component imports platform, proto and itself", p.ImportPath, imported)
		}
	}
}

func TestLibrariesStayInTheirPlace(t *testing.T) {
	pkgs := list(t, "work")
	for _, rule := range onlyIn {
		places := strings.Fields(rule.place)
		found := false
		for _, p := range pkgs {
			home := slices.ContainsFunc(places, func(place string) bool { return within(p.ImportPath, prefix+place) })
			for _, imported := range p.Imports {
				if !within(imported, rule.library) {
					continue
				}
				if !home {
					t.Errorf("%s imports %s, which only %s may: %s", p.ImportPath, imported, rule.place, rule.reason)
				}
				found = found || home
			}
		}
		if !found && rule.place != "test" {
			t.Errorf("nothing in %s imports %s: the rule is out of date", rule.place, rule.library)
		}
	}
}

func TestProgramsDoNotLink(t *testing.T) {
	for program, libraries := range unlinked {
		pkgs := list(t, prefix+program)
		for _, dependency := range pkgs[0].Deps {
			for _, library := range libraries {
				if within(dependency, library) {
					t.Errorf("%s links %s", program, dependency)
				}
			}
		}
	}
}

func TestEveryPackageSaysWhatItOwns(t *testing.T) {
	for _, p := range list(t, "work") {
		if p.Doc == "" && !strings.Contains(p.ImportPath, "/gen/") {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

func TestOnlyTestsImportTesting(t *testing.T) {
	for _, p := range list(t, "work") {
		if slices.Contains(p.Imports, "testing") && !strings.HasSuffix(p.ImportPath, "test") && module(p.ImportPath) != "test" {
			t.Errorf("%s imports testing outside of a test", p.ImportPath)
		}
	}
}

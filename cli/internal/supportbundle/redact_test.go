package supportbundle

import (
	"encoding/json"
	"strings"
	"testing"
)

// The value that must not be found anywhere; each place of it has a number.
const canary = "CANARY"

func TestRedact(t *testing.T) {
	pem := "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEI" + canary + "\nabc" + canary + "=\n-----END EC PRIVATE KEY-----"
	for _, test := range []struct{ name, text string }{
		{"private key", "before\n" + pem + "\nafter"},
		{"private key in JSON", `{"message":"` + strings.ReplaceAll(pem, "\n", `\n`) + `","keep":"after"}`},
		{"private key without its end", "before\n" + strings.SplitAfter(pem, "abc")[0] + canary},
		{"private key without its beginning", "MHcCAQEEIMHcCAQEEI" + canary + "\nMHcCAQEEIabc" + canary + "=\n-----END PRIVATE KEY-----\nafter"},
		{"kubeconfig", "    client-key-data: LS0tLS1CRUdJTiBFQyBQUklWQVRFIEtFWS0t" + canary + "=="},
		{"token of a command", "kijabi node join 10.0.0.1 --token kijabi.n.def456." + canary + "-_x.0123456789abcdef after"},
		{"master token", "joined with kijabi.m.abc123." + canary + "-_x.0123456789abcdef after"},
		{"node token in JSON", `{"message":"token kijabi.n.abc123.` + canary + `.0123 is bad","keep":"after"}`},
		{"token without its pin", "kijabi.n.abc123." + canary},
		{"service account token", "eyJhbGciOiJSUzI1NiIs.eyJpc3MiOiJr" + canary + ".c2ln" + canary},
		{"bearer", "GET /api Authorization: Bearer abcdef" + canary},
		{"bearer alone", "called with bearer abcdef" + canary + " after"},
		{"basic in JSON", `{"Authorization":["Basic dXNlcjp` + canary + `="],"keep":"after"}`},
		{"cookie", "Cookie: session=" + canary + "; other=" + canary},
		{"URL", "proxy http://user:" + canary + "@10.0.0.1:3128/ after"},
		{"YAML", "keep: after\npassword: " + canary + "\n"},
		{"YAML in quotes", `db_password: "a b ` + canary + `"` + "\nkeep: after"},
		{"YAML in single quotes", "apiKey: 'a b " + canary + "'\nkeep: after"},
		{"JSON", `{"clientSecret":"a\"b ` + canary + `","keep":"after"}`},
		{"JSON within JSON", `{"message":"{\"password\":\"a b ` + canary + `\",\"keep\":\"after\"}"}`},
		{"TOML", "secret_key = \"" + canary + "\"\nkeep = \"after\""},
		{"option with =", "mysql --password=" + canary + " --keep after"},
		{"option", "mysql --password " + canary + " --keep after"},
		{"query", "GET /login?user=a&token=" + canary + "&keep=after"},
		{"environment", "AWS_SECRET_ACCESS_KEY=" + canary + " keep"},
		{"environment of an object", `{"name":"DB_PASSWORD","value":"` + canary + `","keep":"after"}`},
		{"key id of a cloud", "AKIAABCDEFGHIJCANARY"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, places := Redact([]byte(test.text))
			if strings.Contains(string(got), canary) || places == 0 {
				t.Errorf("%d places: %s", places, got)
			}
			for _, keep := range []string{"before", "after", "abc123"} {
				if strings.Contains(test.text, keep) && !strings.Contains(string(got), keep) {
					t.Errorf("%q is gone, too: %s", keep, got)
				}
			}
			if strings.HasPrefix(test.text, "{") && !json.Valid(got) {
				t.Errorf("no JSON any more: %s", got)
			}
		})
	}
}

func TestRedactKeepsWhatIsNoSecret(t *testing.T) {
	text := strings.Join([]string{
		`{"level":"info","time":"2026-11-29T22:00:00Z","message":"starting","component":"kubelet","version":"devel"}`,
		`identity:`, `  keyFile: /var/lib/kijabi/identity/kubelet.key`, `  certFile: /var/lib/kijabi/identity/kubelet.crt`,
		`the token has expired`, `secretName: registry`, `"tokenExpirationSeconds": 3607`, `--tokens`,
		`-----BEGIN CERTIFICATE-----`, `MIIB`, `-----END CERTIFICATE-----`,
		`https://10.0.0.1:6443/api`, `kijabi.masters.v1.MastersService`, `key: kube-system/coredns`,
	}, "\n")
	if got, places := Redact([]byte(text)); string(got) != text || places != 0 {
		t.Errorf("%d places:\n%s", places, got)
	}
}

func BenchmarkRedact(b *testing.B) {
	plain := `{"level":"info","time":"2026-11-29T22:00:00Z","message":"sync took long","key":"default/web","pod":"default/web"}` + "\n"
	secret := `{"level":"info","time":"2026-11-29T22:00:00Z","message":"called","token":"abc","pod":"default/web"}` + "\n"
	content := []byte(strings.Repeat(strings.Repeat(plain, 20)+secret, 500))
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		Redact(content)
	}
}

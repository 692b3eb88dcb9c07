package pki_test

import (
	"fmt"
	"strings"
	"testing"

	"kijabi.dev/platform/pki"
	"kijabi.dev/platform/pki/pkitest"
)

func TestJoinToken(t *testing.T) {
	pin := pki.Pin(pkitest.NewCA(t).CertificatePEM())
	for _, master := range []bool{true, false} {
		token := pki.NewJoinToken(master, pin)
		got, err := pki.ParseJoinToken(" " + token.Text() + "\n")
		if err != nil || got != token {
			t.Errorf("read back %v, %v; want %v", got, err, token)
		}
		if text := fmt.Sprintf("%s %v", token, token); strings.Contains(text, token.Secret) {
			t.Errorf("printing shows the secret: %s", text)
		}
		other := pki.NewJoinToken(master, pin)
		if other.ID == token.ID || other.Secret == token.Secret || string(other.SecretHash()) == string(token.SecretHash()) {
			t.Error("two tokens are alike")
		}
	}
	good := pki.NewJoinToken(false, pin)
	for name, bad := range map[string]string{
		"empty": "", "cut": good.Text()[:40], "other": "k10" + good.Text(),
		"role":       strings.Replace(good.Text(), ".n.", ".x.", 1),
		"upper case": strings.ToUpper(good.Text()),
		"short pin":  good.Text()[:len(good.Text())-2],
		"no hex":     strings.Replace(good.Text(), good.Secret, strings.Repeat("z", 32), 1),
	} {
		if _, err := pki.ParseJoinToken(bad); err == nil || strings.Contains(err.Error(), good.Secret) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

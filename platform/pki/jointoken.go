package pki

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// JoinToken lets a machine become part of a cluster. In text it is
// "kijabi.<m|n>.<id>.<secret>.<pin>". Whoever joins checks the cluster's CA against
// the pin before it sends the token.
type JoinToken struct {
	// Master is true for a token that makes masters, false for nodes.
	Master bool
	// ID is public and names the token: 10 hexadecimal digits.
	ID string
	// Secret proves the right: 32 hexadecimal digits.
	Secret string
	// CAPin is Pin of the cluster's CA.
	CAPin string
}

const (
	tokenIDBytes     = 5
	tokenSecretBytes = 16
)

// NewJoinToken makes a token with a random id and secret.
func NewJoinToken(master bool, caPin string) JoinToken {
	var random [tokenIDBytes + tokenSecretBytes]byte
	_, _ = rand.Read(random[:]) // never fails; crypto/rand ends the program instead
	return JoinToken{
		Master: master, CAPin: caPin,
		ID:     hex.EncodeToString(random[:tokenIDBytes]),
		Secret: hex.EncodeToString(random[tokenIDBytes:]),
	}
}

// ParseJoinToken reads the text form; its errors never repeat the secret.
func ParseJoinToken(text string) (JoinToken, error) {
	parts := strings.Split(strings.TrimSpace(text), ".")
	if len(parts) != 5 || parts[0] != "kijabi" {
		return JoinToken{}, errors.New(`a join token looks like "kijabi.n.<id>.<secret>.<ca pin>"; copy all of it`)
	}
	if parts[1] != "m" && parts[1] != "n" {
		return JoinToken{}, fmt.Errorf("join token: role %q is unknown; m is for masters and n for nodes", parts[1])
	}
	for _, part := range []struct {
		name, value string
		bytes       int
	}{{"id", parts[2], tokenIDBytes}, {"secret", parts[3], tokenSecretBytes}, {"CA pin", parts[4], sha256.Size}} {
		if raw, err := hex.DecodeString(part.value); err != nil || len(raw) != part.bytes || strings.ToLower(part.value) != part.value {
			return JoinToken{}, fmt.Errorf("join token: the %s is not %d hexadecimal digits; copy all of the token", part.name, 2*part.bytes)
		}
	}
	return JoinToken{Master: parts[1] == "m", ID: parts[2], Secret: parts[3], CAPin: parts[4]}, nil
}

// Text is the whole token, secret included.
func (t JoinToken) Text() string {
	role := "n"
	if t.Master {
		role = "m"
	}
	return strings.Join([]string{"kijabi", role, t.ID, t.Secret, t.CAPin}, ".")
}

// String hides the secret, so that a token in a log gives nothing away.
func (t JoinToken) String() string {
	t.Secret = "…"
	return t.Text()
}

// SecretHash is what a cluster keeps of the secret.
func (t JoinToken) SecretHash() []byte {
	sum := sha256.Sum256([]byte(t.Secret))
	return sum[:]
}

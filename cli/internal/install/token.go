package install

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Token is a join token taken apart.
type Token struct {
	// Text is the whole token.
	Text string
	// Master is true for "kijabi.m", false for "kijabi.n".
	Master bool
	// ID is public.
	ID string
	// Pin is the hexadecimal SHA-256 of the cluster's CA certificate.
	Pin string
}

// ParseToken takes a token apart and says what is wrong with it.
func ParseToken(text string) (Token, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return Token{}, errors.New("join token is missing: make one on a master with `kijabi token create --role node` and give it with --token")
	}
	parts := strings.Split(text, ".")
	const fields = 5
	if len(parts) != fields || parts[0] != "kijabi" || (parts[1] != "m" && parts[1] != "n") || parts[2] == "" || parts[3] == "" {
		return Token{}, errors.New("join token is not of the form kijabi.m.ID.SECRET.PIN or kijabi.n.ID.SECRET.PIN: copy it whole")
	}
	if raw, err := hex.DecodeString(parts[4]); err != nil || len(raw) != 32 {
		return Token{}, errors.New("join token ends in no CA pin of 64 hexadecimal digits: copy it whole")
	}
	return Token{Text: text, Master: parts[1] == "m", ID: parts[2], Pin: parts[4]}, nil
}

// check refuses a token of the other role.
func (t Token) check(master bool) error {
	if t.Master == master {
		return nil
	}
	if master {
		return fmt.Errorf("join token %s is for nodes, not for masters: make one with `kijabi token create --role master`", t.ID)
	}
	return fmt.Errorf("join token %s is for masters, not for nodes: make one with `kijabi token create --role node`", t.ID)
}

// Package roots holds the certificate authorities that browsers trust, as Mozilla lists
// them, for programs in an image that talk to public servers, such as registries.
package roots

import (
	"bytes"
	"encoding/pem"
	"fmt"
	"runtime/debug"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// Module is the Go module that the certificates come from.
const Module = "golang.org/x/crypto/x509roots/fallback"

// PEM returns the certificates as one file, without those that are trusted for some
// names only, which such a file cannot express.
func PEM() ([]byte, error) {
	var out bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint != nil {
			continue
		}
		if err := pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}); err != nil {
			return nil, fmt.Errorf("certificate authorities: %w", err)
		}
	}
	return out.Bytes(), nil
}

// Version finds the version and checksum of Module in what a program tells about itself.
func Version(info *debug.BuildInfo) (version, sum string, err error) {
	for _, dependency := range info.Deps {
		if dependency.Path == Module {
			return dependency.Version, dependency.Sum, nil
		}
	}
	return "", "", fmt.Errorf("this program does not tell its version of %s: build it with 'go build'", Module)
}

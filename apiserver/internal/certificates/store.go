// Package certificates turns join tokens into certificates and renews them: it
// serves kijabi.certificate.v1.CertificateService. A token is kept as a hash; its
// uses are counted by compare-and-swap, so that two masters never grant one twice.
package certificates

import (
	"context"
	"time"
)

// Unlimited is Record.UsesLeft of a token without a bound.
const Unlimited = -1

// Record is a join token as it is kept.
type Record struct {
	// ID names the token.
	ID string
	// Master is true for a token that makes masters.
	Master bool
	// SecretHash is the SHA-256 of the secret.
	SecretHash []byte
	// Expires ends the token.
	Expires time.Time
	// UsesLeft is how many more machines may join, or Unlimited.
	UsesLeft int32
	// Issued notes what a bounded token was used for: "<machine>/<component>" to the
	// hexadecimal SHA-256 of the public key that was certified.
	Issued map[string]string
	// CreatedBy is the user that made the token.
	CreatedBy string
	// Version is the store's; Update compares it. Empty for a new record.
	Version string
}

// TokenStore keeps records. All methods may be called from several goroutines and
// on several masters at once; records passed and returned are not shared. Errors
// are *apierrors.StatusError of the reasons named here. The package certificatestest
// holds the contract as tests.
type TokenStore interface {
	// Get returns a record, or NotFound. It reads what was acknowledged last, on any master.
	Get(ctx context.Context, id string) (Record, error)
	// Create adds a record, or returns AlreadyExists.
	Create(ctx context.Context, record Record) error
	// Update replaces the record if its version is still record.Version; otherwise it
	// returns Conflict, or NotFound if it is gone.
	Update(ctx context.Context, record Record) error
	// Delete removes a record; one that is gone already is no error.
	Delete(ctx context.Context, id string) error
	// List returns all records, in any order.
	List(ctx context.Context) ([]Record, error)
}

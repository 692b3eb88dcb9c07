package rpc

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net/url"
	"strconv"
	"strings"

	"google.golang.org/grpc/metadata"
)

// Metadata keys of Kijabi's calls.
const (
	// MetadataRequestID names a request for as long as it is retried; a server
	// performs a write of one id once.
	MetadataRequestID = "kijabi-request-id"
	// MetadataEpoch is the leadership epoch under which the caller writes, decimal.
	MetadataEpoch = "kijabi-epoch"
	// Those below describe the original caller of a forwarded request. They are
	// believed only from a peer that holds the role apiserver. Names may hold any text, so they
	// are percent-encoded.
	MetadataForwardedUser   = "kijabi-forwarded-user"
	MetadataForwardedUID    = "kijabi-forwarded-uid"
	MetadataForwardedGroups = "kijabi-forwarded-groups"
	// MetadataForwardedExtra has a value key=value for each value of each extra field.
	MetadataForwardedExtra     = "kijabi-forwarded-extra"
	MetadataForwardedRequestID = "kijabi-forwarded-request-id"
	MetadataForwardedEpoch     = "kijabi-forwarded-epoch"
	// MetadataForwardedUserAgent is for logs and audit, and names the owner of fields whose
	// writer names none.
	MetadataForwardedUserAgent = "kijabi-forwarded-user-agent"
	// Those below name whom the caller wants to act as. Their values are percent-encoded.
	MetadataImpersonateUser  = "impersonate-user"
	MetadataImpersonateUID   = "impersonate-uid"
	MetadataImpersonateGroup = "impersonate-group"
	// MetadataImpersonateExtra has a value key=value for each value of each extra field, both
	// sides percent-encoded. impersonate-extra-<key> does the same for keys that metadata can have.
	MetadataImpersonateExtra = "impersonate-extra"
	// MetadataWarning is in the header of an answer, once for each warning about what was
	// written, quoted as a Go string of ASCII.
	MetadataWarning = "kijabi-warning"
	// MetadataAuditAnnotation is in the header of the answer to a forwarded write, once for each
	// annotation that the audit event of the original request is to have: key and value, each
	// quoted as a Go string of ASCII, with a space between.
	MetadataAuditAnnotation = "kijabi-audit-annotation"
)

// Warnings is the header that carries warnings.
func Warnings(texts []string) metadata.MD {
	md := metadata.MD{}
	for _, text := range texts {
		md.Append(MetadataWarning, strconv.QuoteToASCII(text))
	}
	return md
}

// WarningsOf reads the warnings in a header; what is not quoted right is left out.
func WarningsOf(header metadata.MD) []string {
	var texts []string
	for _, quoted := range header.Get(MetadataWarning) {
		if text, err := strconv.Unquote(quoted); err == nil {
			texts = append(texts, text)
		}
	}
	return texts
}

// AuditAnnotation is the header that carries an audit annotation.
func AuditAnnotation(key, value string) metadata.MD {
	return metadata.Pairs(MetadataAuditAnnotation, strconv.QuoteToASCII(key)+" "+strconv.QuoteToASCII(value))
}

// AuditAnnotationsOf reads the audit annotations in a header; what is not quoted right is left out.
func AuditAnnotationsOf(header metadata.MD) [][2]string {
	var out [][2]string
	for _, text := range header.Get(MetadataAuditAnnotation) {
		quoted, err := strconv.QuotedPrefix(text)
		if err != nil {
			continue
		}
		key, err1 := strconv.Unquote(quoted)
		value, err2 := strconv.Unquote(strings.TrimPrefix(text[len(quoted):], " "))
		if err1 == nil && err2 == nil {
			out = append(out, [2]string{key, value})
		}
	}
	return out
}

// WithEpoch returns a context whose calls carry the leadership epoch e. Servers
// refuse writes of an epoch that is over.
func WithEpoch(ctx context.Context, e uint64) context.Context {
	return withOutgoing(ctx, MetadataEpoch, strconv.FormatUint(e, 10))
}

// EpochFrom returns the epoch that WithEpoch put into ctx, 0 if none.
func EpochFrom(ctx context.Context) uint64 {
	md, _ := metadata.FromOutgoingContext(ctx)
	return parseEpoch(first(md, MetadataEpoch))
}

// WithRequestID returns a context whose calls carry id. A caller that retries a
// write by itself uses one id for all attempts. Without it each call gets an id of its own.
func WithRequestID(ctx context.Context, id string) context.Context {
	return withOutgoing(ctx, MetadataRequestID, id)
}

// NewRequestID returns an id that nobody else uses: 128 random bits.
func NewRequestID() string {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails; crypto/rand ends the program instead
	return hex.EncodeToString(id[:])
}

// WithForwarded returns a context whose calls are made on behalf of caller. The
// receiving apiserver sees caller as its caller; only an apiserver may do this.
func WithForwarded(ctx context.Context, caller Caller) context.Context {
	md, _ := metadata.FromOutgoingContext(ctx)
	md = md.Copy()
	if md == nil {
		md = metadata.MD{}
	}
	md.Set(MetadataForwardedUser, url.PathEscape(caller.Name))
	md.Set(MetadataForwardedUID, url.PathEscape(caller.UID))
	md.Delete(MetadataForwardedGroups)
	for _, group := range caller.Groups {
		md.Append(MetadataForwardedGroups, url.PathEscape(group))
	}
	md.Delete(MetadataForwardedExtra)
	for key, values := range caller.Extra {
		for _, value := range values {
			md.Append(MetadataForwardedExtra, url.QueryEscape(key)+"="+url.QueryEscape(value))
		}
	}
	md.Set(MetadataForwardedRequestID, caller.RequestID)
	md.Set(MetadataForwardedEpoch, strconv.FormatUint(caller.Epoch, 10))
	md.Set(MetadataForwardedUserAgent, url.PathEscape(caller.UserAgent)) // of HTTP, so it may hold anything
	if caller.RequestID != "" {
		md.Set(MetadataRequestID, caller.RequestID) // a retry of the forwarder is a retry of the caller
	}
	return metadata.NewOutgoingContext(ctx, md)
}

// unescape reads a percent-encoded name; one that is none stands for itself.
func unescape(text string) string {
	if !strings.Contains(text, "%") {
		return text
	}
	if plain, err := url.PathUnescape(text); err == nil {
		return plain
	}
	return text
}

// parseExtra reads the values of MetadataForwardedExtra; what is none is dropped.
func parseExtra(values []string) map[string][]string {
	var extra map[string][]string
	for _, one := range values {
		key, value, ok := strings.Cut(one, "=")
		key, errKey := url.QueryUnescape(key)
		value, errValue := url.QueryUnescape(value)
		if !ok || errKey != nil || errValue != nil {
			continue
		}
		if extra == nil {
			extra = map[string][]string{}
		}
		extra[key] = append(extra[key], value)
	}
	return extra
}

// withOutgoing replaces one key of the outgoing metadata.
func withOutgoing(ctx context.Context, key, value string) context.Context {
	md, _ := metadata.FromOutgoingContext(ctx)
	md = md.Copy()
	if md == nil {
		md = metadata.MD{}
	}
	md.Set(key, value)
	return metadata.NewOutgoingContext(ctx, md)
}

// ensureRequestID gives a call an id unless it has one.
func ensureRequestID(ctx context.Context) context.Context {
	if md, ok := metadata.FromOutgoingContext(ctx); ok && first(md, MetadataRequestID) != "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, MetadataRequestID, NewRequestID())
}

func first(md metadata.MD, key string) string {
	if values := md.Get(key); len(values) > 0 {
		return values[0]
	}
	return ""
}

// parseEpoch reads a decimal number; what is none counts as no epoch.
func parseEpoch(text string) uint64 {
	e, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0
	}
	return e
}

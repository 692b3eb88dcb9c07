package audit

import (
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"
)

// Event is one request, once it has been answered, or once the answer of a stream has begun.
type Event struct {
	// Started is set when the answer has only begun.
	Started bool
	// ID of the request, as its Audit-Id header tells the client.
	ID string
	// URI is the path and query, or the gRPC method.
	URI string
	// Verb as it was authorized.
	Verb string
	User User
	// Impersonated is whom User acted as; the zero User for nobody.
	Impersonated User
	SourceIP     string
	UserAgent    string
	// Object is what the request was about; nil for none.
	Object *ObjectRef
	// Code is the HTTP status, Reason a metav1.StatusReason. Messages are left out: they quote
	// what was sent.
	Code   int
	Reason string
	// Received and Answered are when the request came and when its answer was complete, or began.
	Received, Answered time.Time
	// Annotations are further facts, in order.
	Annotations []Annotation
}

// User is who made a request.
type User struct {
	Name   string
	Groups []string
}

// ObjectRef names what a request was about.
type ObjectRef struct {
	Group, Version, Resource, Subresource, Namespace, Name string
}

// Annotation is a fact about a request.
type Annotation struct{ Key, Value string }

// Bounds of what clients choose.
const (
	maxURI       = 4 << 10
	maxUserAgent = 512
	maxName      = 256
)

// microTime is the format of metav1.MicroTime.
const microTime = "2006-01-02T15:04:05.000000Z07:00"

// append adds the event as one line of JSON, an audit.k8s.io/v1 Event.
func (e *Event) append(b []byte) []byte {
	b = append(b, `{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":`...)
	b = appendString(b, e.ID)
	if e.Started {
		b = append(b, `,"stage":"ResponseStarted","requestURI":`...)
	} else {
		b = append(b, `,"stage":"ResponseComplete","requestURI":`...)
	}
	b = appendString(b, cut(e.URI, maxURI))
	b = append(b, `,"verb":`...)
	b = appendString(b, e.Verb)
	b = append(b, `,"user":`...)
	b = e.User.append(b)
	if e.Impersonated.Name != "" {
		b = append(b, `,"impersonatedUser":`...)
		b = e.Impersonated.append(b)
	}
	if e.SourceIP != "" {
		b = append(b, `,"sourceIPs":[`...)
		b = appendString(b, e.SourceIP)
		b = append(b, ']')
	}
	if e.UserAgent != "" {
		b = append(b, `,"userAgent":`...)
		b = appendString(b, cut(e.UserAgent, maxUserAgent))
	}
	if e.Object != nil {
		b = append(b, `,"objectRef":`...)
		b = e.Object.append(b)
	}
	b = append(b, `,"responseStatus":{"metadata":{}`...)
	if e.Reason != "" {
		b = append(b, `,"status":"Failure","reason":`...)
		b = appendString(b, e.Reason)
	}
	b = append(b, `,"code":`...)
	b = strconv.AppendInt(b, int64(e.Code), 10)
	b = append(b, `},"requestReceivedTimestamp":"`...)
	b = e.Received.UTC().AppendFormat(b, microTime)
	b = append(b, `","stageTimestamp":"`...)
	b = e.Answered.UTC().AppendFormat(b, microTime)
	b = append(b, '"')
	for i, a := range e.Annotations {
		if i == 0 {
			b = append(b, `,"annotations":{`...)
		} else {
			b = append(b, ',')
		}
		b = appendString(b, a.Key)
		b = append(b, ':')
		b = appendString(b, a.Value)
	}
	if len(e.Annotations) > 0 {
		b = append(b, '}')
	}
	return append(b, "}\n"...)
}

func (u User) append(b []byte) []byte {
	b = append(b, `{"username":`...)
	b = appendString(b, cut(u.Name, maxName))
	for i, group := range u.Groups {
		if i == 0 {
			b = append(b, `,"groups":[`...)
		} else {
			b = append(b, ',')
		}
		b = appendString(b, cut(group, maxName))
	}
	if len(u.Groups) > 0 {
		b = append(b, ']')
	}
	return append(b, '}')
}

func (o *ObjectRef) append(b []byte) []byte {
	b = append(b, `{"resource":`...)
	b = appendString(b, cut(o.Resource, maxName))
	for _, field := range [...]struct{ name, value string }{
		{`,"namespace":`, o.Namespace}, {`,"name":`, o.Name}, {`,"apiGroup":`, o.Group},
		{`,"apiVersion":`, o.Version}, {`,"subresource":`, o.Subresource},
	} {
		if field.value != "" {
			b = append(b, field.name...)
			b = appendString(b, cut(field.value, maxName))
		}
	}
	return append(b, '}')
}

// cut bounds what a client chose.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit] + "…"
}

// appendString adds a JSON string; nearly all are plain.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			quoted, _ := json.Marshal(s) // strings do not fail
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

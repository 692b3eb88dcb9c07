package rest

import (
	"mime"
	"net/http"
	"sort"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Media types of bodies.
const (
	mediaJSON     = "application/json"
	mediaYAML     = "application/yaml"
	mediaProtobuf = "application/vnd.kubernetes.protobuf"
)

type encoding int

const (
	encodeJSON encoding = iota
	encodeYAML
	encodeProtobuf
)

// shape is what an answer shows of the objects.
type shape int

const (
	shapeObject shape = iota
	shapeTable
	shapePartial
)

// format is the outcome of content negotiation.
type format struct {
	encoding encoding
	shape    shape
	// version of meta.k8s.io for tables and partial objects.
	version string
	pretty  bool
}

func (f format) contentType() string {
	suffix := ""
	switch f.shape {
	case shapeTable:
		suffix = ";as=Table;v=" + f.version + ";g=meta.k8s.io"
	case shapePartial, shapeObject:
	}
	switch f.encoding {
	case encodeYAML:
		return mediaYAML
	case encodeProtobuf:
		return mediaProtobuf
	default:
		return mediaJSON + suffix
	}
}

// clause is one alternative of an Accept header.
type clause struct {
	media  string
	params map[string]string
	q      float64
}

// parseAccept returns the alternatives, most wanted first.
func parseAccept(header string) []clause {
	var out []clause
	for part := range strings.SplitSeq(header, ",") {
		media, params, err := mime.ParseMediaType(strings.TrimSpace(part))
		if err != nil {
			continue
		}
		c := clause{media: media, params: params, q: 1}
		if q, ok := params["q"]; ok {
			if c.q, err = strconv.ParseFloat(q, 64); err != nil || !(c.q > 0) { // which NaN is not
				continue
			}
		}
		out = append(out, c)
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].q > out[j].q })
	return out
}

// negotiate picks the answer's format. Status and other plain objects pass list false
// and shapes false: they are never shown as tables.
func negotiate(r *http.Request, shapes bool) (format, error) { return negotiateFor(r, shapes, true) }

// negotiate picks the format of an answer about a target. Objects of kinds that users have
// defined have no protobuf form, though their metadata has.
func (t target) negotiate(r *http.Request) (format, error) {
	return negotiateFor(r, true, !t.isCustom())
}

func negotiateFor(r *http.Request, shapes, protobuf bool) (format, error) {
	pretty := isTrue(r.URL.Query().Get("pretty"))
	header := strings.Join(r.Header.Values("Accept"), ",")
	if header == "" {
		return format{pretty: pretty}, nil
	}
	for _, c := range parseAccept(header) {
		f := format{pretty: pretty}
		switch c.media {
		case mediaJSON, "*/*", "application/*":
			f.encoding = encodeJSON
		case mediaYAML:
			f.encoding = encodeYAML
		case mediaProtobuf:
			f.encoding = encodeProtobuf
		default:
			continue
		}
		if as := c.params["as"]; as != "" {
			if !shapes || c.params["g"] != metav1.GroupName {
				continue
			}
			f.version = c.params["v"]
			switch as {
			case "Table":
				f.shape = shapeTable
			case "PartialObjectMetadata", "PartialObjectMetadataList":
				f.shape = shapePartial
			default:
				continue
			}
			if f.version != "v1" && f.version != "v1beta1" || f.shape == shapeTable && f.encoding == encodeProtobuf {
				continue
			}
		}
		if f.encoding == encodeProtobuf && f.shape == shapeObject && !protobuf {
			continue
		}
		return f, nil
	}
	return format{pretty: pretty}, notAcceptable()
}

// plainFormat is the format of a Status: what was asked for as far as it applies, else JSON.
func plainFormat(r *http.Request) format {
	f, err := negotiate(r, true)
	if err != nil {
		return format{}
	}
	f.shape, f.version = shapeObject, ""
	return f
}

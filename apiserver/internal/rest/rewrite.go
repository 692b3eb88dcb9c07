package rest

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

// maxTokenBytes bounds what of a page is held in memory to look for links: one tag, or one text.
const maxTokenBytes = 4 << 20

// rewriter makes what a pod answers fit the path below which its client sees it.
type rewriter struct {
	// prefix is the path of the proxy, without a slash at its end.
	prefix string
	// hosts by which the pod may call itself.
	hosts []string
}

// response changes an answer in place: where it redirects to, its cookies, and the links of
// a page in HTML.
func (p *rewriter) response(resp *http.Response) {
	// These speak for every path of the origin, which is not the pod's.
	for _, name := range []string{"Alt-Svc", "Clear-Site-Data", "Service-Worker-Allowed", "Strict-Transport-Security", "Audit-Id", headerFlowSchema, headerPriorityLevel} {
		resp.Header.Del(name)
	}
	p.cookies(resp.Header)
	if location := resp.Header.Get("Location"); location != "" {
		resp.Header.Set("Location", p.link(location))
		return
	}
	kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || kind != "text/html" || resp.Request.Method == http.MethodHead || resp.StatusCode == http.StatusSwitchingProtocols ||
		resp.StatusCode == http.StatusPartialContent {
		return
	}
	p.page(resp)
}

// cookies keeps a pod's cookies below its path, where no other pod gets them.
func (p *rewriter) cookies(header http.Header) {
	lines := header.Values("Set-Cookie")
	if len(lines) == 0 {
		return
	}
	var kept []string
	for _, line := range lines {
		cookie, err := http.ParseSetCookie(line)
		if err != nil {
			continue
		}
		if !below(cookie.Path, p.prefix) {
			cookie.Path = p.prefix + "/" + strings.TrimLeft(cookie.Path, "/")
		}
		cookie.Domain = ""
		kept = append(kept, cookie.String())
	}
	header["Set-Cookie"] = kept
}

// link leads an absolute path on the pod below the prefix; other links stay as they are.
func (p *rewriter) link(text string) string {
	u, err := url.Parse(text)
	if err != nil || !strings.HasPrefix(u.Path, "/") || u.Host != "" && !slices.Contains(p.hosts, u.Host) || u.Opaque != "" {
		return text
	}
	to := &url.URL{Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery, Fragment: u.Fragment, RawFragment: u.RawFragment}
	path := to.EscapedPath()
	if !below(path, p.prefix) {
		path = p.prefix + path
	}
	to.Path, to.RawPath = "", ""
	return path + to.String()
}

// below tells whether a path is prefix or lies below it.
func below(path, prefix string) bool {
	rest, ok := strings.CutPrefix(path, prefix)
	return ok && (rest == "" || rest[0] == '/')
}

// linking are the attributes whose values are links.
var linking = map[atom.Atom][]string{ //nolint:gochecknoglobals // a constant
	atom.A: {"href"}, atom.Area: {"href"}, atom.Audio: {"src"}, atom.Base: {"href"}, atom.Button: {"formaction"},
	atom.Embed: {"src"}, atom.Form: {"action"}, atom.Frame: {"src"}, atom.Iframe: {"src"}, atom.Img: {"src"},
	atom.Input: {"src", "formaction"}, atom.Link: {"href"}, atom.Object: {"data"}, atom.Script: {"src"},
	atom.Source: {"src"}, atom.Track: {"src"}, atom.Video: {"poster", "src"},
}

// page rewrites the links of an answer in HTML while it passes.
func (p *rewriter) page(resp *http.Response) {
	body := resp.Body
	plain := io.Reader(body)
	switch resp.Header.Get("Content-Encoding") {
	case "":
	case "gzip":
		plain = &late{open: func() (io.Reader, error) { return gzip.NewReader(body) }}
	case "deflate":
		plain = flate.NewReader(body)
	default:
		return // compressed in a way that is not known: it goes through as it is
	}
	tokens := html.NewTokenizer(plain)
	tokens.SetMaxBuf(maxTokenBytes)
	resp.Body = struct {
		io.Reader
		io.Closer
	}{&linkReader{rewriter: p, tokens: tokens, source: plain}, body}
	resp.ContentLength = -1
	// A part or a copy of the changed page has another length and name than the pod knows.
	for _, name := range []string{"Content-Length", "Content-Encoding", "Accept-Ranges", "Etag"} {
		resp.Header.Del(name)
	}
}

// late opens a reader when it is first read, lest an answer wait for its first bytes.
type late struct {
	open   func() (io.Reader, error)
	reader io.Reader
}

func (l *late) Read(p []byte) (int, error) {
	if l.reader == nil {
		var err error
		if l.reader, err = l.open(); err != nil {
			return 0, err
		}
	}
	return l.reader.Read(p)
}

// linkReader is a page whose links are rewritten; only tags with a link to change are
// written anew. A piece longer than maxTokenBytes and what follows it are passed on as they are.
type linkReader struct {
	rewriter *rewriter
	tokens   *html.Tokenizer
	source   io.Reader
	buffer   bytes.Buffer
	// rest is set once nothing more is to be rewritten.
	rest io.Reader
}

func (l *linkReader) Read(p []byte) (int, error) {
	for l.buffer.Len() == 0 {
		if l.rest != nil {
			return l.rest.Read(p)
		}
		l.next()
	}
	return l.buffer.Read(p)
}

// next moves a token to the buffer.
func (l *linkReader) next() {
	kind := l.tokens.Next()
	start := l.buffer.Len()
	l.buffer.Write(l.tokens.Raw())
	switch kind {
	case html.ErrorToken:
		switch err := l.tokens.Err(); {
		case errors.Is(err, html.ErrBufferExceeded):
			l.rest = io.MultiReader(bytes.NewReader(bytes.Clone(l.tokens.Buffered())), l.source)
		default:
			l.rest = failed{err}
		}
	case html.StartTagToken, html.SelfClosingTagToken:
		token := l.tokens.Token()
		if l.rewriter.tag(&token) {
			l.buffer.Truncate(start)
			l.buffer.WriteString(token.String())
		}
	}
}

// failed is a reader that has come to its end.
type failed struct{ error }

func (f failed) Read([]byte) (int, error) { return 0, f.error }

// tag rewrites the links of a tag and tells whether there were any.
func (p *rewriter) tag(token *html.Token) bool {
	changed := false
	for i, attr := range token.Attr {
		if !slices.Contains(linking[token.DataAtom], attr.Key) {
			continue
		}
		if to := p.link(attr.Val); to != attr.Val {
			token.Attr[i].Val, changed = to, true
		}
	}
	return changed
}

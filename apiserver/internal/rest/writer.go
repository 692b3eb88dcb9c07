package rest

import (
	"bufio"
	"cmp"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip" // twice as quick as the standard one
)

// deadlineWriter bounds each write, so that a reader that stopped does not hold a
// request for ever. It notes whether the answer has begun.
type deadlineWriter struct {
	http.ResponseWriter
	timeout  time.Duration
	started  bool
	hijacked bool
	// code of the answer; 0 while none was given explicitly.
	code int
	// begun, if set, is called once the answer begins.
	begun func(code int)
}

// start notes that the answer begins.
func (w *deadlineWriter) start() {
	if !w.started && w.begun != nil {
		w.begun(cmp.Or(w.code, http.StatusOK))
	}
	w.started = true
}

// Unwrap lets http.ResponseController through.
func (w *deadlineWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *deadlineWriter) WriteHeader(code int) {
	if code < http.StatusSwitchingProtocols || code > http.StatusSwitchingProtocols && code < http.StatusOK {
		w.ResponseWriter.WriteHeader(code) // an informational one: the answer is still to come
		return
	}
	if w.code < http.StatusOK {
		w.code = code
	}
	w.start()
	w.ResponseWriter.WriteHeader(code)
}

// bound sets the deadline of one write and returns what lifts it. It must be lifted:
// HTTP/2 ends a stream whose deadline passes, also one that has nothing to write.
func (w *deadlineWriter) bound() func() {
	control := http.NewResponseController(w.ResponseWriter)
	// Transports without deadlines (tests) go without.
	_ = control.SetWriteDeadline(time.Now().Add(w.timeout))
	return func() { _ = control.SetWriteDeadline(time.Time{}) }
}

func (w *deadlineWriter) Write(p []byte) (int, error) {
	w.start()
	defer w.bound()()
	return w.ResponseWriter.Write(p)
}

// FlushError sends what is buffered; http.ResponseController calls it.
func (w *deadlineWriter) FlushError() error {
	w.start()
	defer w.bound()()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// end bounds what net/http still writes after the handler.
func (w *deadlineWriter) end() {
	if !w.hijacked {
		w.bound()
	}
}

// Hijack takes the connection over.
func (w *deadlineWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.hijacked, w.code = true, http.StatusSwitchingProtocols
	w.start()
	hijacker, ok := w.ResponseWriter.(http.Hijacker)
	if !ok {
		return nil, nil, errors.New("the connection cannot be upgraded: use HTTP/1.1")
	}
	return hijacker.Hijack()
}

// compressors are large, and kept for the next answer.
var compressors = sync.Pool{New: func() any {
	w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level is valid
	return w
}}

// compressor compresses an answer once it turns out to be large, if the client can read
// that. Small answers are sent as they are, with their length.
type compressor struct {
	w       http.ResponseWriter
	accepts bool
	code    int
	buffer  []byte
	gz      *gzip.Writer
	plain   bool
}

func newCompressor(w http.ResponseWriter, r *http.Request) *compressor {
	accepts := false
	for part := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, params, _ := strings.Cut(strings.TrimSpace(part), ";")
		if name == "gzip" && !strings.Contains(strings.ReplaceAll(params, " ", ""), "q=0") {
			accepts = true
		}
	}
	return &compressor{w: w, accepts: accepts}
}

func (c *compressor) Header() http.Header         { return c.w.Header() }
func (c *compressor) Unwrap() http.ResponseWriter { return c.w }
func (c *compressor) WriteHeader(code int)        { c.code = code }

func (c *compressor) Write(p []byte) (int, error) {
	switch {
	case c.gz != nil:
		return c.gz.Write(p)
	case c.plain:
		return c.w.Write(p)
	}
	if len(c.buffer)+len(p) <= compressAboveBytes {
		c.buffer = append(c.buffer, p...)
		return len(p), nil
	}
	c.begin()
	if c.accepts {
		c.Header().Set("Content-Encoding", "gzip")
		c.Header().Del("Content-Length")
		c.w.WriteHeader(c.code)
		c.gz, _ = compressors.Get().(*gzip.Writer)
		c.gz.Reset(c.w)
		if _, err := c.gz.Write(c.buffer); err != nil {
			return 0, err
		}
		c.buffer = nil
		return c.gz.Write(p)
	}
	c.plain = true
	c.w.WriteHeader(c.code)
	if _, err := c.w.Write(c.buffer); err != nil {
		return 0, err
	}
	c.buffer = nil
	return c.w.Write(p)
}

func (c *compressor) begin() {
	c.Header().Add("Vary", "Accept-Encoding")
	if c.code == 0 {
		c.code = http.StatusOK
	}
}

// close sends what is still held back.
func (c *compressor) close() {
	switch {
	case c.gz != nil:
		_ = c.gz.Close() // the client is gone
		compressors.Put(c.gz)
		c.gz = nil
	case c.plain:
	case c.code != 0 || len(c.buffer) > 0:
		c.begin()
		c.Header().Set("Content-Length", strconv.Itoa(len(c.buffer)))
		c.w.WriteHeader(c.code)
		_, _ = c.w.Write(c.buffer)
	}
}

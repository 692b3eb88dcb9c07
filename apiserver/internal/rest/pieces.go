package rest

import (
	"errors"
	"io"

	"golang.org/x/sync/errgroup"
)

// pieceBytes is how much of a list is written at a time: each write sets a deadline, and wakes
// the goroutine that serves the connection.
const pieceBytes = 256 << 10

// pieces are parts of an answer, of which one is written while the next is made.
type pieces struct {
	w       io.Writer
	writing errgroup.Group // one piece at most
	spare   []byte
}

// inPieces writes an answer piece by piece, so that it is never in memory as a whole. Fill gives
// each piece that is full, and returns the last.
func inPieces(w io.Writer, fill func(p *pieces) (last []byte, err error)) error {
	p := &pieces{w: w}
	last, err := fill(p)
	if err = errors.Join(err, p.writing.Wait()); err != nil {
		return err
	}
	_, err = w.Write(last)
	return err
}

// empty returns an empty piece, with room for what is added before somebody looks.
func (p *pieces) empty() []byte {
	if piece := p.spare; piece != nil {
		return piece[:0]
	}
	return make([]byte, 0, pieceBytes+pieceBytes/4)
}

// give has b written if it is a full piece, and returns what to go on with.
func (p *pieces) give(b []byte) ([]byte, error) {
	if len(b) < pieceBytes {
		return b, nil
	}
	if err := p.writing.Wait(); err != nil {
		return nil, err
	}
	p.writing.Go(func() error {
		_, err := p.w.Write(b)
		return err
	})
	next := p.empty()
	p.spare = b
	return next, nil
}

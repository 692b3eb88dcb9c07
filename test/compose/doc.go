// Package compose tests the compose demo on a real Docker engine: `kijabi compose up`,
// the guestbook, the drills of deploy/compose/README.md, and that `compose down` leaves
// nothing. It needs the programs and the images (`make build images`) and an engine on
// which the demo does not run.
package compose

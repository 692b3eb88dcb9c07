package rpc

// stackSpace makes a goroutine's stack 32 KiB: a write that decodes, admits, validates and
// encodes a pod needs more than 16. The runtime caches no stacks of this size, which costs half
// a microsecond; to copy one at its deepest costs ten.
const stackSpace = 15 << 10

// GrowStack grows the stack in one step, now that it is nearly empty and cheap to copy. gRPC
// and HTTP/2 run each call on a new goroutine with the smallest of stacks; grown on demand it
// is copied two or three times, at its deepest, which was a ninth of all the CPU time of a
// create.
func GrowStack() { reserve(-1) }

// reserve has a frame that needs the space, whether or not it comes to use it.
//
//go:noinline
func reserve(i int) byte {
	if i < 0 {
		return 0
	}
	var space [stackSpace]byte
	space[i%len(space)]++
	return space[(i+1)%len(space)]
}

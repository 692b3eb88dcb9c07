package managedfields

// probe looks for the fields of a walk in an entry's FieldsV1, without decoding it: most
// writes change what their manager owns already, and then nothing but a time changes.
type probe struct {
	walk *walk
	raw  []byte
	at   int

	// owned counts the fields the writer gets that the entry has; lost the ones that it has
	// and that have gone; shared those of either kind.
	owned, lost, shared int
}

// read looks through the entry. It answers false when the text is not as this package and
// structured-merge-diff write it.
func (p *probe) read() bool {
	if len(p.raw) == 0 || p.raw[0] != '{' {
		return false
	}
	p.at = 1
	_, ok := p.object(0, int32(len(p.walk.nodes)))
	return ok && p.at == len(p.raw)
}

// object reads what follows an opening brace, next to the nodes of one level. It tells
// whether the object's own field is owned.
func (p *probe) object(i, end int32) (member, ok bool) {
	if p.at < len(p.raw) && p.raw[p.at] == '}' {
		p.at++
		return true, true
	}
	next := i
	for {
		key, ok := p.key()
		if !ok {
			return false, false
		}
		switch n := p.find(key, i, next, end); {
		case string(key) == `".":`:
			member = true
			ok = p.skip()
		case n < 0:
			ok = p.skip()
		default:
			next = p.walk.nodes[n].end
			ok = p.node(n)
		}
		if !ok || p.at >= len(p.raw) {
			return false, false
		}
		p.at++
		switch p.raw[p.at-1] {
		case ',':
		case '}':
			return member, true
		default:
			return false, false
		}
	}
}

// node reads the object of node n.
func (p *probe) node(n int32) bool {
	p.at++ // the brace, which key has seen
	member, ok := p.object(n+1, p.walk.nodes[n].end)
	if !ok || !member {
		return ok
	}
	switch change := p.walk.nodes[n].change; {
	case change&given != 0:
		p.owned++
		p.shared++
	case change != 0:
		p.lost++
		p.shared++
	}
	return true
}

// find returns the node of a level with this key, or -1. Both texts are in order, so it is
// most often the next one.
func (p *probe) find(key []byte, first, next, end int32) int32 {
	for n := next; n < end; n = p.walk.nodes[n].end {
		if p.walk.isKey(&p.walk.nodes[n], key) {
			return n
		}
	}
	for n := first; n < next; n = p.walk.nodes[n].end {
		if p.walk.isKey(&p.walk.nodes[n], key) {
			return n
		}
	}
	return -1
}

// key reads a key with its colon, up to the opening brace.
func (p *probe) key() ([]byte, bool) {
	from := p.at
	if !p.str() || p.at+1 >= len(p.raw) || p.raw[p.at] != ':' || p.raw[p.at+1] != '{' {
		return nil, false
	}
	p.at++
	return p.raw[from:p.at], true
}

// str reads a string.
func (p *probe) str() bool {
	if p.at >= len(p.raw) || p.raw[p.at] != '"' {
		return false
	}
	for p.at++; p.at < len(p.raw); p.at++ {
		switch p.raw[p.at] {
		case '\\':
			p.at++
		case '"':
			p.at++
			return true
		}
	}
	return false
}

// skip reads an object that nobody asks about.
func (p *probe) skip() bool {
	depth := 0
	for p.at < len(p.raw) {
		switch p.raw[p.at] {
		case '"':
			if !p.str() {
				return false
			}
			continue
		case '{':
			depth++
		case '}':
			depth--
		}
		p.at++
		if depth == 0 {
			return true
		}
	}
	return false
}

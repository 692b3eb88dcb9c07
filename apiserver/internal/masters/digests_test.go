package masters

import (
	"slices"
	"testing"

	"kijabi.dev/apiserver/internal/etcdnode"
)

func TestWeighDigests(t *testing.T) {
	good, bad, worse := etcdnode.Digest{Hash: 1, Compacted: 5}, etcdnode.Digest{Hash: 2, Compacted: 5}, etcdnode.Digest{Hash: 3, Compacted: 5}
	late := etcdnode.Digest{Hash: 9, Compacted: 4}
	voters := func(n uint64) map[uint64]bool {
		all := map[uint64]bool{}
		for id := range n {
			all[id+1] = true
		}
		return all
	}
	spare := map[uint64]bool{1: true, 2: false}
	for name, c := range map[string]struct {
		votes     map[uint64]bool
		digests   map[uint64]etcdnode.Digest
		odd       []uint64
		agreed    bool
		undecided bool
	}{
		"alone":                   {voters(1), map[uint64]etcdnode.Digest{1: good}, nil, true, false},
		"alike":                   {voters(3), map[uint64]etcdnode.Digest{1: good, 2: good, 3: good}, nil, true, false},
		"one is odd":              {voters(3), map[uint64]etcdnode.Digest{1: good, 2: bad, 3: good}, []uint64{2}, true, false},
		"two of five are odd":     {voters(5), map[uint64]etcdnode.Digest{1: bad, 2: good, 3: good, 4: worse, 5: good}, []uint64{1, 4}, true, false},
		"one of two":              {voters(2), map[uint64]etcdnode.Digest{1: good, 2: bad}, nil, false, true},
		"each another":            {voters(3), map[uint64]etcdnode.Digest{1: good, 2: bad, 3: worse}, nil, false, true},
		"one differs, one is off": {voters(3), map[uint64]etcdnode.Digest{1: good, 2: bad}, nil, false, true},
		"one is off":              {voters(3), map[uint64]etcdnode.Digest{1: good, 2: good}, nil, true, false},
		"two are off":             {voters(3), map[uint64]etcdnode.Digest{1: good}, nil, false, false},
		"one compacts yet":        {voters(3), map[uint64]etcdnode.Digest{1: good, 2: late, 3: good}, nil, true, false},
		"two compact yet":         {voters(3), map[uint64]etcdnode.Digest{1: good, 2: late, 3: late}, nil, true, false},
		"nobody is comparable":    {voters(2), map[uint64]etcdnode.Digest{1: good, 2: late}, nil, false, false},
		"a spare is odd":          {spare, map[uint64]etcdnode.Digest{1: good, 2: bad}, []uint64{2}, true, false},
	} {
		got := weighDigests(c.votes, c.digests)
		if !slices.Equal(got.odd, c.odd) || got.agreed != c.agreed || got.undecided != c.undecided {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

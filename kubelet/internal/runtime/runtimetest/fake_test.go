package runtimetest_test

import (
	"testing"

	"kijabi.dev/kubelet/internal/runtime/runtimetest"
)

func TestFakePassesTheSuite(t *testing.T) {
	runtimetest.Run(t, runtimetest.NewFake("image:1"), "image:1", nil)
}

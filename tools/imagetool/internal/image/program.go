package image

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// machines are the architectures that images are made for, as programs spell them.
func machines() map[string]elf.Machine {
	return map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}
}

// checkProgram refuses a program that could not start: one for other machines, and a
// dynamically linked one whose loader is not in the image, which would fail with a "no
// such file" that names the wrong file. Files that are no programs pass. It leaves the
// reading position alone.
func checkProgram(file *os.File, architecture string, present map[string]File) error {
	program, err := elf.NewFile(file)
	var format *elf.FormatError
	if errors.As(err, &format) || errors.Is(err, io.EOF) {
		return nil // not a program
	}
	if err != nil {
		return fmt.Errorf("read as a program: %w", err)
	}
	if want := machines()[architecture]; program.Machine != want {
		return fmt.Errorf("is a program for %s, the image is for %s (%s): build it with GOARCH=%s",
			program.Machine, architecture, want, architecture)
	}
	for _, segment := range program.Progs {
		if segment.Type != elf.PT_INTERP {
			continue
		}
		interpreter, err := io.ReadAll(segment.Open())
		if err != nil {
			return fmt.Errorf("read its interpreter: %w", err)
		}
		loader := strings.TrimRight(string(interpreter), "\x00")
		if _, there := present[loader]; !there {
			return fmt.Errorf("is dynamically linked (%s is not in the image): build it with CGO_ENABLED=0", loader)
		}
	}
	return nil
}

package vdso

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"time"
)

// Skew replaces, in a stopped process, the functions of the vDSO that tell the wall clock by others that ask the kernel and
// add seconds.
func Skew(pid int, wrong time.Duration) error {
	seconds := int64(wrong / time.Second)
	from, to, err := place(pid)
	if err != nil {
		return err
	}
	memory, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer memory.Close()
	image := make([]byte, to-from)
	if _, err := memory.ReadAt(image, from); err != nil {
		return err
	}
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return fmt.Errorf("vDSO: %w", err)
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return fmt.Errorf("vDSO: %w", err)
	}
	for name, code := range clockFunctions(seconds) {
		i := slices.IndexFunc(symbols, func(s elf.Symbol) bool { return s.Name == name })
		if i < 0 {
			continue
		}
		if int(symbols[i].Size) < len(code) {
			return fmt.Errorf("the vDSO's %s has %d bytes, too few to replace it", name, symbols[i].Size)
		}
		if _, err := memory.WriteAt(code, from+int64(symbols[i].Value)); err != nil {
			return err
		}
	}
	return nil
}

// clockFunctions returns machine code by the name that it has in the vDSO. Arguments are in rdi and rsi.
func clockFunctions(seconds int64) map[string][]byte {
	number := binary.LittleEndian.AppendUint64(nil, uint64(seconds))
	code := func(parts ...[]byte) []byte { return slices.Concat(parts...) }
	addTo := func(register byte) []byte { // movabs r8, seconds; add [register], r8
		return code([]byte{0x49, 0xb8}, number, []byte{0x4c, 0x01, register})
	}
	const inRDI, inRSI = 0x07, 0x06
	return map[string][]byte{
		// The real-time clocks are 0 and 5 (coarse); the others stay as they are.
		"__vdso_clock_gettime": code(
			[]byte{0xb8, 228, 0, 0, 0, 0x0f, 0x05}, // mov eax, 228; syscall
			[]byte{0x85, 0xff, 0x74, 5},            // test edi, edi; jz add
			[]byte{0x83, 0xff, 5, 0x75, 13},        // cmp edi, 5; jne ret
			addTo(inRSI),                           // add:
			[]byte{0xc3}),                          // ret
		"__vdso_gettimeofday": code(
			[]byte{0xb8, 96, 0, 0, 0, 0x0f, 0x05}, // mov eax, 96; syscall
			[]byte{0x48, 0x85, 0xff, 0x74, 13},    // test rdi, rdi; jz ret
			addTo(inRDI),
			[]byte{0xc3}),
		"__vdso_time": code(
			[]byte{0xb8, 201, 0, 0, 0, 0x0f, 0x05},               // mov eax, 201; syscall
			[]byte{0x49, 0xb8}, number, []byte{0x4c, 0x01, 0xc0}, // movabs r8, seconds; add rax, r8
			[]byte{0x48, 0x85, 0xff, 0x74, 3}, // test rdi, rdi; jz ret
			[]byte{0x48, 0x89, 0x07},          // mov [rdi], rax
			[]byte{0xc3}),
	}
}

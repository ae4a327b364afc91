package machine

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// linux/kvm.h.
const (
	kvmGetAPIVersion = 0xae00
	kvmCreateVM      = 0xae01
	kvmVCPUMmapSize  = 0xae04
	kvmCreateVCPU    = 0xae41
	kvmSetMemory     = 0x4020ae46
	kvmRun           = 0xae80
	kvmSetRegs       = 0x4090ae82
	kvmGetSregs      = 0x8138ae83
	kvmSetSregs      = 0x4138ae84
	kvmSupportedCPU  = 0xc008ae05
	kvmSetCPU        = 0x4008ae90

	kvmExitIO = 2

	kvmPatience = 10 * time.Second // a loaded host is slow
)

type kvmMemory struct {
	slot, flags           uint32
	guest, size, userAddr uint64
}

type kvmSegment struct {
	base                                              uint64
	limit                                             uint32
	selector                                          uint16
	kind, present, dpl, db, s, l, g, avl, unusable, _ uint8
}

type kvmTable struct {
	base  uint64
	limit uint16
	_     [3]uint16
}

type kvmSregs struct {
	cs, ds, es, fs, gs, ss, tr, ldt     kvmSegment
	gdt, idt                            kvmTable
	cr0, cr2, cr3, cr4, cr8, efer, apic uint64
	interrupts                          [4]uint64
}

type kvmRegs struct {
	rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp uint64
	r8to15                                 [8]uint64
	rip, rflags                            uint64
}

// Addresses in the probe's memory.
const (
	probeSize            = 0x10000
	pml4, pdpt, pd       = 0x1000, 0x2000, 0x3000
	probeCode, probeData = 0x4000, 0x5000
)

// The probe computes 0x21+0x21 with SSE, which compilers use in every 64-bit unikernel, and
// writes the result to port 0xf4.
var probe = []byte{
	0xf3, 0x0f, 0x6f, 0x07, // movdqu (%rdi), %xmm0
	0x66, 0x0f, 0xfe, 0xc0, // paddd %xmm0, %xmm0
	0x66, 0x0f, 0x7e, 0xc0, // movd %xmm0, %eax
	0xe6, 0xf4, //             out %al, $0xf4
	0xf4, //                   hlt
}

// TryKVM runs a probe in a virtual machine. why is the reason why KVM does not work, ""
// if the probe ran: on some hosts KVM opens but fails at SSE. err is an error that may
// pass. TryKVM takes milliseconds, at most about 2 s.
func TryKVM() (why string, err error) { return tryProgram(probe) }

func tryProgram(program []byte) (why string, err error) {
	f, why, err := openKVM()
	if f == nil {
		return why, err
	}
	defer f.Close() //nolint:errcheck // the machine goes with it
	if err := runProbe(f.Fd(), program); Passing(err) {
		return "", err
	} else if err != nil {
		return err.Error(), nil
	}
	return "", nil
}

func runProbe(kvm uintptr, program []byte) error {
	if version, err := ioctl(kvm, kvmGetAPIVersion, 0); err != nil || version != 12 {
		return fmt.Errorf("version %d: %w", version, err)
	}
	vm, err := ioctl(kvm, kvmCreateVM, 0)
	if err != nil {
		return fmt.Errorf("create machine: %w", err)
	}
	defer unix.Close(int(vm)) //nolint:errcheck // as above
	memory, err := unix.Mmap(-1, 0, probeSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	defer unix.Munmap(memory) //nolint:errcheck // as above
	binary.LittleEndian.PutUint64(memory[pml4:], pdpt|3)
	binary.LittleEndian.PutUint64(memory[pdpt:], pd|3)
	binary.LittleEndian.PutUint64(memory[pd:], 0x83) // maps the first 2 MiB to themselves
	copy(memory[probeCode:], program)
	memory[probeData] = 0x21
	region := kvmMemory{size: probeSize, userAddr: uint64(uintptr(unsafe.Pointer(&memory[0])))}
	if _, err := ioctl(vm, kvmSetMemory, uintptr(unsafe.Pointer(&region))); err != nil {
		return fmt.Errorf("give it memory: %w", err)
	}
	cpu, err := ioctl(vm, kvmCreateVCPU, 0)
	if err != nil {
		return fmt.Errorf("create processor: %w", err)
	}
	defer unix.Close(int(cpu)) //nolint:errcheck // as above
	size, err := ioctl(kvm, kvmVCPUMmapSize, 0)
	if err != nil {
		return err
	}
	state, err := unix.Mmap(int(cpu), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer unix.Munmap(state) //nolint:errcheck // as above
	// It gets all features of the host's processor, as from QEMU and solo5-hvt.
	features := make([]uint32, 2+10*256) // struct kvm_cpuid2, of 256 entries
	features[0] = 256
	table := uintptr(unsafe.Pointer(&features[0]))
	if _, err := ioctl(kvm, kvmSupportedCPU, table); err != nil {
		return fmt.Errorf("list its features: %w", err)
	}
	if _, err := ioctl(cpu, kvmSetCPU, table); err != nil {
		return fmt.Errorf("set its features: %w", err)
	}
	if err := longMode(cpu); err != nil {
		return fmt.Errorf("set its registers: %w", err)
	}
	return run(cpu, state)
}

// longMode sets the registers for the probe to start in long mode.
func longMode(cpu uintptr) error {
	var s kvmSregs
	if _, err := ioctl(cpu, kvmGetSregs, uintptr(unsafe.Pointer(&s))); err != nil {
		return err
	}
	s.cs = kvmSegment{limit: 0xffffffff, selector: 8, kind: 11, present: 1, s: 1, l: 1, g: 1}
	s.ds = kvmSegment{limit: 0xffffffff, selector: 16, kind: 3, present: 1, s: 1, db: 1, g: 1}
	s.es, s.fs, s.gs, s.ss = s.ds, s.ds, s.ds, s.ds
	s.tr = kvmSegment{limit: 0xffff, kind: 11, present: 1}
	s.cr0, s.cr3, s.cr4 = 0x80000033, pml4, 0x620 // PG NE ET MP PE; PAE OSFXSR OSXMMEXCPT
	s.efer = 0x500                                // LMA LME
	if _, err := ioctl(cpu, kvmSetSregs, uintptr(unsafe.Pointer(&s))); err != nil {
		return err
	}
	r := kvmRegs{rip: probeCode, rdi: probeData, rflags: 2}
	_, err := ioctl(cpu, kvmSetRegs, uintptr(unsafe.Pointer(&r)))
	return err
}

// run runs the processor to its first exit, which must be the probe's result.
func run(cpu uintptr, state []byte) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	thread := unix.Gettid()
	late := time.AfterFunc(kvmPatience, func() {
		state[1] = 1 // immediate_exit
		_ = unix.Tgkill(unix.Getpid(), thread, unix.SIGURG)
	})
	defer late.Stop()
	for state[1] == 0 {
		_, err := ioctl(cpu, kvmRun, 0)
		if err == unix.EINTR { //nolint:errorlint // a bare errno: signals of Go's scheduler
			continue
		}
		if err != nil {
			return fmt.Errorf("run: %w", err)
		}
		if exit := binary.LittleEndian.Uint32(state[8:]); exit != kvmExitIO {
			return fmt.Errorf("a program with SSE ends with exit reason %d", exit)
		}
		at := binary.LittleEndian.Uint64(state[40:]) // io.data_offset
		if at >= uint64(len(state)) || state[at] != 0x42 {
			return fmt.Errorf("a program with SSE computes a wrong number")
		}
		return nil
	}
	return fmt.Errorf("a program with SSE does not end")
}

func ioctl(fd, request, arg uintptr) (uintptr, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, request, arg)
	if errno != 0 {
		return 0, errno
	}
	return r, nil
}

// A firmware image of 64 KiB that does in a few instructions what a kernel does to start, and says so by QEMU's exit code.
//
// Why not look at /dev/kvm or at KVM's answers: hosts exist (KVM without hardware help, "PVM") where the device is there, a VM can
// be made and SeaBIOS starts, yet the first x87, page table or system call of a stock kernel is an "emulation failure".
// Why own code: true on every machine, without a kernel or firmware file that may be absent.

/** Exit code of QEMU when every step worked: isa-debug-exit turns value v into 2v+1, and the program writes 42. */
export const ROM_PASSED = 85;

/** QEMU device through which the program reports. */
export const ROM_DEVICE = "isa-debug-exit,iobase=0xf4,iosize=4";

// Assembled by GNU as; labels became offsets. The last 64 KiB below 4 GiB are the ROM, so ROM offset x is address 0xffff0000+x.
const CODE = `
fa                    cli                             # real mode, entered from the reset vector
2e660f011648f1        lgdtl %cs:gdtptr
0f20c0                mov   %cr0,%eax
0c01                  or    $1,%al
0f22c0                mov   %eax,%cr0                 # protected mode
66ea18f0ffff0800      ljmpl $0x08,$0xfffff018
b810000000            mov   $0x10,%eax                # 32 bit
8ed8                  mov   %eax,%ds
8ec0                  mov   %eax,%es
8ed0                  mov   %eax,%ss
9bdbe3                finit                           # here an emulating KVM gives up
b801000080            mov   $0x80000001,%eax
0fa2                  cpuid
0fbae21d              bt    $29,%edx                  # long mode there?
735f                  jnc   fail
c7050010000007200000  movl  $0x2007,0x1000            # page tables: first 2 MiB and the 2 MiB of the ROM, for user code too
c7050020000007300000  movl  $0x3007,0x2000
c7051820000007400000  movl  $0x4007,0x2018
c7050030000087000000  movl  $0x87,0x3000
c705f84f00008700e0ff  movl  $0xffe00087,0x4ff8
b820060000            mov   $0x620,%eax               # PAE, SSE
0f22e0                mov   %eax,%cr4
b800100000            mov   $0x1000,%eax
0f22d8                mov   %eax,%cr3
b9800000c0            mov   $0xc0000080,%ecx          # EFER: long mode, system calls
0f32                  rdmsr
0d01010000            or    $0x101,%eax
0f30                  wrmsr
b833000180            mov   $0x80010033,%eax          # paging on
0f22c0                mov   %eax,%cr0
ea9cf0ffff1800        ljmp  $0x18,$0xfffff09c
b801000000      fail: mov   $1,%eax
e7f4                  out   %eax,$0xf4
f4                    hlt
ebfd                  jmp   .-1
bc00800000            mov   $0x8000,%esp              # 64 bit
0f011da6000000        lidt  idtptr(%rip)
cc                    int3                            # an exception and the way back
83fd33                cmp   $0x33,%ebp
753e                  jne   fail64
b815000000            mov   $21,%eax                  # SSE2: 21 + 21
660f6ec0              movd  %eax,%xmm0
660ffec0              paddd %xmm0,%xmm0
660f7ec3              movd  %xmm0,%ebx
b9810000c0            mov   $0xc0000081,%ecx          # STAR and LSTAR
31c0                  xor   %eax,%eax
ba18002800            mov   $0x280018,%edx
0f30                  wrmsr
ffc1                  inc   %ecx
b8f6f0ffff            mov   $0xfffff0f6,%eax
31d2                  xor   %edx,%edx
0f30                  wrmsr
b9e6f0ffff            mov   $0xfffff0e6,%ecx
41bb02000000          mov   $2,%r11d
480f07                sysretq                         # to ring 3 ...
ffc3                  inc   %ebx
ffcb                  dec   %ebx
0f05                  syscall                         # ... and back
b801000000    fail64: mov   $1,%eax
e7f4                  out   %eax,$0xf4
f4                    hlt
ebfd                  jmp   .-1
0f01f8      syscall_: swapgs
89d8                  mov   %ebx,%eax                 # 42 when all of it worked
e7f4                  out   %eax,$0xf4
f4                    hlt
ebfd                  jmp   .-1
bd33000000       int3_: mov  $0x33,%ebp
48cf                  iretq
90                    nop
0000000000000000 gdt: # null, code 32, data, code 64, data, (base of user selectors), user data, user code 64
ffff0000009bcf00
ffff00000093cf00
ffff0000009baf00
ffff00000093cf00
0000000000000000
ffff000000f3cf00
ffff000000fbaf00
3f0008f1ffff  gdtptr:
3f0058f1ffff00000000  idtptr:
0000000000000000 idt: # vectors 0 to 2 are not used, vector 3 is int3_
0000000000000000
0000000000000000
0000000000000000
0000000000000000
0000000000000000
00f11800008effff
0000000000000000
`;

const CODE_OFFSET = 0xf000;
const RESET_OFFSET = 0xfff0;

/** The image, for `qemu-system-x86_64 -bios`. */
export function probeRom() {
  const hex = CODE.split("\n").map((line) => line.split(" ", 1)[0]);
  const rom = Buffer.alloc(0x10000);
  Buffer.from(hex.join(""), "hex").copy(rom, CODE_OFFSET);
  Buffer.from("e90df0", "hex").copy(rom, RESET_OFFSET); // jmp CODE_OFFSET
  return rom;
}

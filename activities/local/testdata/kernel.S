/* A kernel with the notes of a Solo5 one: its ABI (-DTARGET=1 hvt, 2 spt), and
 * the manifest that solo5-elftool makes of
 *
 *      {"type": "solo5.manifest", "version": 1, "devices": [
 *          {"name": "service", "type": "NET_BASIC"}, {"name": "storage", "type": "BLOCK_BASIC"}]}
 *
 * -DDEVICES=1 leaves out the second device, 0 both.
 * It is never run: the stand-in tender acts for it. */
        .macro  device name, type
10:     .ascii  "\name"
        .fill   68 - (. - 10b), 1, 0
        .long   \type
        .fill   32, 1, 0
        .endm

        .section .note.solo5.abi, "a", @note
        .balign 4
        .long   6, 16, 0x31494241
        .asciz  "Solo5"
        .balign 4
        .long   TARGET, 1, 0, 0

        .section .note.solo5.manifest, "a", @note
        .balign 4
        .long   6, 2f - 1f, 0x3154464d
        .asciz  "Solo5"
        .balign 4
1:      .long   0                       /* aligns what follows to 8 */
        .long   1, DEVICES + 1
        device  "", 0x40000000
#if DEVICES >= 1
        device  "service", 2
#endif
#if DEVICES == 2
        device  "storage", 1
#endif
2:
        .text
        .globl  _start
_start: hlt
        jmp     _start

// Command tender is a stand-in for solo5-spt. It takes the same options. In the place of the
// kernel it answers ARP, and one TCP connection to port 80 with the first bytes of the block
// device, if it has one, as the address, network and MAC address that it was given.
package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Println("tender:", err)
		os.Exit(1)
	}
	os.Exit(7)
}

func run(args []string) error {
	var g guest
	var block string
	for i, arg := range args {
		option, value, _ := strings.Cut(arg, "=")
		var err error
		switch option {
		case "--mem":
			fmt.Println("memory:", value)
		case "--net:service":
			g.tap, err = open(value)
		case "--net-mac:service":
			g.mac, err = net.ParseMAC(value)
		case "--block:storage":
			block = value
		case "--":
			fmt.Printf("command line: %q\n", strings.Join(args[i+2:], " "))
		case "--ipv4":
			var prefix netip.Prefix
			prefix, err = netip.ParsePrefix(value)
			g.ip = prefix.Addr().AsSlice()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", arg, err)
		}
	}
	if block != "" {
		f, err := os.Open(block)
		if err != nil {
			return err
		}
		g.page = make([]byte, 5)
		if _, err := f.Read(g.page); err != nil {
			return err
		}
	}
	fmt.Println("listening")
	return g.serve()
}

func open(name string) (fd int, err error) {
	if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR, 0); err != nil {
		return 0, err
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	return fd, unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
}

type guest struct {
	tap      int
	mac, ip  []byte
	page     []byte
	answered bool
}

const (
	fin, syn, ack = 1, 2, 16
	ethernet, ip4 = 14, 20
)

// serve answers frames until the other side has closed its connection.
func (g *guest) serve() error {
	be := binary.BigEndian
	buffer := make([]byte, 2048)
	for {
		n, err := unix.Read(g.tap, buffer)
		if err != nil {
			return err
		}
		f := buffer[:n]
		if n < 42 || !bytes.Equal(f[:6], g.mac) && f[0] != 0xff {
			continue
		}
		sender := bytes.Clone(f[6:12])
		switch kind := be.Uint16(f[12:]); {
		case kind == 0x0806 && f[21] == 1 && bytes.Equal(f[38:42], g.ip):
			f[21] = 2
			copy(f[32:], f[22:32]) // the target is the sender
			copy(f[22:], g.mac)
			copy(f[28:], g.ip)
			err = g.send(f[:42], sender)
		case kind == 0x0800 && f[23] == 6 && bytes.Equal(f[30:34], g.ip) && be.Uint16(f[36:]) == 80:
			tcp := f[ethernet+ip4:]
			data := int(be.Uint16(f[16:])) - ip4 - int(tcp[12]>>4)*4
			switch flags := tcp[13]; {
			case flags&syn != 0:
				err = g.segment(f, sender, syn|ack, 1000, be.Uint32(tcp[4:])+1, nil)
			case data > 0 && !g.answered:
				g.answered = true
				page := append([]byte("HTTP/1.0 200 OK\r\n\r\n"), g.page...)
				err = g.segment(f, sender, fin|ack, 1001, be.Uint32(tcp[4:])+uint32(data), page)
			case flags&fin != 0:
				return g.segment(f, sender, ack, be.Uint32(tcp[8:]), be.Uint32(tcp[4:])+1, nil)
			}
		}
		if err != nil {
			return err
		}
	}
}

func (g *guest) send(frame, to []byte) error {
	copy(frame, to)
	copy(frame[6:], g.mac)
	_, err := unix.Write(g.tap, frame)
	return err
}

// segment answers the TCP segment in the frame f.
func (g *guest) segment(f, to []byte, flags byte, seq, acked uint32, data []byte) error {
	be := binary.BigEndian
	out := append(make([]byte, ethernet+ip4+20), data...)
	copy(out, f[:ethernet])
	ip, tcp := out[ethernet:], out[ethernet+ip4:]
	copy(ip, []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 6, 0, 0})
	be.PutUint16(ip[2:], uint16(40+len(data)))
	copy(ip[12:], g.ip)
	copy(ip[16:], f[26:30])
	copy(tcp, f[36:38])
	copy(tcp[2:], f[34:36])
	be.PutUint32(tcp[4:], seq)
	be.PutUint32(tcp[8:], acked)
	tcp[12], tcp[13] = 5<<4, flags
	be.PutUint16(tcp[14:], 60000)
	be.PutUint16(ip[10:], sum(0, ip[:ip4]))
	pseudo := sum(0, append(bytes.Clone(ip[12:20]), 0, 6, byte((20+len(data))>>8), byte(20+len(data))))
	be.PutUint16(out[ethernet+ip4+16:], sum(^pseudo, out[ethernet+ip4:]))
	return g.send(out, to)
}

// sum is the checksum of the Internet protocols, begun with start.
func sum(start uint16, data []byte) uint16 {
	total := uint32(start)
	for i, b := range data {
		total += uint32(b) << (8 * (1 - i%2))
	}
	for total>>16 != 0 {
		total = total&0xffff + total>>16
	}
	return ^uint16(total)
}

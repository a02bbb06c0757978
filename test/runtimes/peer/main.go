// Command peer is what runs in the tests' containers: a server that speaks as
// host.Namespace.Serve does, and its client.
//
//	peer serve NAME PORT     answers each TCP connection and each UDP datagram
//	                         with NAME and the client's address, until it is killed
//	peer ask NETWORK ADDRESS prints such an answer; NETWORK is tcp or udp
package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// patience bounds one question: far more than any takes.
const patience = 30 * time.Second

func main() {
	err := errors.New("usage: peer serve NAME PORT | peer ask NETWORK ADDRESS")
	switch {
	case len(os.Args) != 4:
	case os.Args[1] == "serve":
		err = serve(os.Args[2], ":"+os.Args[3])
	case os.Args[1] == "ask":
		err = ask(os.Args[2], os.Args[3])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

func serve(name, address string) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	datagrams, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	go serveUDP(name, datagrams)
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		_, _ = fmt.Fprintln(conn, name, conn.RemoteAddr()) // the client sees what is missing
		_ = conn.Close()                                   // likewise
	}
}

func serveUDP(name string, conn net.PacketConn) {
	for buffer := make([]byte, 16); ; {
		if _, from, err := conn.ReadFrom(buffer); err == nil {
			_, _ = conn.WriteTo(fmt.Appendln(nil, name, from), from) // the client sees what is missing
		}
	}
}

func ask(network, address string) error {
	conn, err := net.DialTimeout(network, address, patience)
	if err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if network == "udp" {
		if _, err := conn.Write([]byte("?")); err != nil {
			return err
		}
	}
	answer := make([]byte, 200)
	n, err := conn.Read(answer)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	_, err = os.Stdout.Write(answer[:n])
	return err
}

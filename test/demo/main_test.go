package main

import (
	"os"
	"testing"

	"github.com/trestle-cni/trestle/test/host"
)

func TestMain(m *testing.M) { os.Exit(host.Main(m)) }

func TestDemo(t *testing.T) { demo(t) }

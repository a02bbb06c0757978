# Trestle: `make help` lists what can be made.

RELEASE ?= $(or $(shell git describe --tags --match 'v*' --dirty 2>/dev/null | sed 's/^v//'),2.0.0-dev)
PREFIX  ?= /opt/cni/bin
PLUGINS := bridge host-local loopback portmap bandwidth firewall static tuning
TIMEOUT ?= 15m

export CGO_ENABLED := 0
BUILD  := go build -trimpath -buildmode=exe -ldflags '-s -w -X main.release=$(RELEASE)'

# The tests and benchmarks take the plugins from here rather than build their own.
export TRESTLE_BIN   := $(CURDIR)/bin
export TRESTLE_PEERS := $(CURDIR)/.cache/peers

.DEFAULT_GOAL := build
.PHONY: build install test lint demo bench clean help deps root

build: ## bin/: one static executable under the name of each plugin
	@mkdir -p bin
	$(BUILD) -o bin/$(firstword $(PLUGINS)) ./plugins
	@for name in $(wordlist 2,99,$(PLUGINS)); do ln -f bin/$(firstword $(PLUGINS)) bin/$$name; done

# A node that runs meanwhile finds either the old file or the new one, whole.
install: build ## put the plugins into PREFIX (default /opt/cni/bin), each by rename
	@mkdir -p '$(DESTDIR)$(PREFIX)'
	@set -e; cd '$(DESTDIR)$(PREFIX)'; trap 'rm -f .trestle.$$$$ .trestle.$$$$.link' EXIT; \
	cp '$(CURDIR)/bin/$(firstword $(PLUGINS))' .trestle.$$$$; chmod 755 .trestle.$$$$; \
	for name in $(PLUGINS); do \
		ln .trestle.$$$$ .trestle.$$$$.link; mv -fT .trestle.$$$$.link $$name; \
		echo "installed $(DESTDIR)$(PREFIX)/$$name"; \
	done

test: root deps build ## all tests, from unit to real kernel (root; in namespaces of their own)
	go test -timeout $(TIMEOUT) ./...

lint: ## the linters of .golangci.yml; the first run builds them, in a minute or two
	go tool -modfile=tools/go.mod golangci-lint run

demo: root deps build ## two containers on the default network, in a host of their own
	go run ./test/demo

bench: root deps build ## ADD and DEL against the reference plugins, as a table
	go run ./test/bench

clean: ## remove what make made
	rm -rf bin .cache

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

root:
	@[ "$$(id -u)" = 0 ] || { echo 'this needs root, since it makes network namespaces: sudo env "PATH=$$PATH" make …' >&2; exit 1; }

# Each program that tests, demo and benchmarks run, and the Debian package that has it.
DEPS := ip=iproute2 nft=nftables iptables=iptables conntrack=conntrack ping=iputils-ping \
	strace=strace busybox=busybox-static tcpdump=tcpdump

deps:
	@PATH="$$PATH:/usr/sbin:/sbin"; missing=; \
	for dep in $(DEPS); do command -v $${dep%%=*} >/dev/null || missing="$$missing $${dep#*=}"; done; \
	[ -z "$$missing" ] && exit 0; \
	command -v apt-get >/dev/null || { echo "missing; please install:$$missing" >&2; exit 1; }; \
	echo "installing$$missing"; export DEBIAN_FRONTEND=noninteractive; \
	get() { apt-get install -qq -y --no-install-recommends $$missing; }; \
	get >/dev/null 2>&1 || { apt-get update -qq && get; }

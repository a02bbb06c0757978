# Trestle: `make help` lists what can be made.

RELEASE ?= $(or $(shell git describe --tags --match 'v*' --dirty 2>/dev/null | sed 's/^v//'),2.0.0-dev)
PREFIX  ?= /opt/cni/bin
BINDIR  ?= /usr/local/bin
MANDIR  ?= $(dir $(BINDIR))share/man
UNITDIR ?= /usr/local/lib/systemd/system
# the names in the list of plugins, the first of which is the file that the others are links to
PLUGINS := $(shell sed -n 's/^\t\t"\([a-z-]*\)": .*/\1/p' plugins/registry/registry.go)
TIMEOUT ?= 15m

export CGO_ENABLED := 0
# The release is set below; a checkout of another user's has no VCS status for root.
export GOFLAGS += -buildvcs=false
BUILD  := go build -trimpath -buildmode=exe -ldflags '-s -w -X main.release=$(RELEASE)'

# The tests and benchmarks take programs from here rather than build their own.
export TRESTLE_BIN   := $(CURDIR)/bin
export TRESTLE_PEERS := $(CURDIR)/.cache/peers
PREVIOUS := .cache/previous/$(shell cat test/previous.commit)
export TRESTLE_PREVIOUS := $(CURDIR)/$(PREVIOUS)

# The path of a checkout may hold spaces: what comes from CURDIR stands in quotes.
CONTAINERD2         := $(CURDIR)/.cache/containerd2
CONTAINERD2_MODULE  := github.com/containerd/containerd/v2
CONTAINERD2_VERSION := v2.4.2

.DEFAULT_GOAL := build
.PHONY: build docs install uninstall test test-vm test-capabilities test-html test-runtimes test-containerd2 test-kubernetes test-kubernetes-ipvs soak soak-hosts fuzz test-arch cover race race-hosts vulncheck lint cross demo demo-hosts bench bench-more clean help deps runtimes root have-go peers previous containerd2 kubernetes

build: have-go ## bin/: one static executable under the name of each plugin, trestle for people, trestle-node to join hosts
	@mkdir -p bin
	$(BUILD) -o bin/trestle ./cmd/trestle
	$(BUILD) -o bin/trestle-node ./cmd/trestle-node
	$(BUILD) -o bin/$(firstword $(PLUGINS)) ./plugins
	@# a copy starts faster than what the linker wrote piece by piece (page cache)
	@for name in trestle trestle-node $(firstword $(PLUGINS)); do cp bin/$$name bin/.$$name && mv -f bin/.$$name bin/$$name; done
	@for name in $(wordlist 2,99,$(PLUGINS)); do ln -f bin/$(firstword $(PLUGINS)) bin/$$name; done

# A node that runs meanwhile finds either the old file or the new one, whole.
install: build ## put the plugins into PREFIX (default /opt/cni/bin), each by rename, trestle and trestle-node into BINDIR (/usr/local/bin), man pages into MANDIR beside that, a unit into UNITDIR
	@set -e; for name in trestle trestle-node; do \
		install -D -m 755 '$(TRESTLE_BIN)'/$$name '$(DESTDIR)$(BINDIR)'/.$$name.new; \
		mv -fT '$(DESTDIR)$(BINDIR)'/.$$name.new '$(DESTDIR)$(BINDIR)'/$$name; \
	done
	@install -d '$(DESTDIR)$(MANDIR)/man8' && install -m 644 docs/man/*.8 '$(DESTDIR)$(MANDIR)/man8/'
	@mkdir -p '$(DESTDIR)$(UNITDIR)'
	@sed 's|/usr/local/bin|$(BINDIR)|' trestle-node.service >'$(DESTDIR)$(UNITDIR)/trestle-node.service'
	@mkdir -p '$(DESTDIR)$(PREFIX)'
	@set -e; cd '$(DESTDIR)$(PREFIX)'; trap 'rm -f .trestle.$$$$ .trestle.$$$$.link' EXIT; \
	cp '$(TRESTLE_BIN)/$(firstword $(PLUGINS))' .trestle.$$$$; chmod 755 .trestle.$$$$; \
	for name in $(PLUGINS); do \
		ln .trestle.$$$$ .trestle.$$$$.link; mv -fT .trestle.$$$$.link $$name; \
		echo "installed $(DESTDIR)$(PREFIX)/$$name"; \
	done

# A file is ours if it holds the import path that the linker wrote into it, of
# whatever version it is. Under the same names others' plugins may stand here.
uninstall: ## remove from PREFIX and BINDIR what make install put there, and nothing of other suites'
	@set -e; remove() { \
		[ -e "$$1" ] || return 0; \
		if ! grep -qaF "$$2" "$$1"; then echo "kept $$1: not Trestle's"; return 0; fi; \
		rm -f "$$1"; echo "removed $$1"; \
	}; \
	for name in $(PLUGINS); do remove '$(DESTDIR)$(PREFIX)'/$$name 'github.com/trestle-cni/trestle/plugins'; done; \
	remove '$(DESTDIR)$(BINDIR)/trestle' 'github.com/trestle-cni/trestle/cmd/trestle'; \
	remove '$(DESTDIR)$(BINDIR)/trestle-node' 'github.com/trestle-cni/trestle/cmd/trestle-node'; \
	remove '$(DESTDIR)$(UNITDIR)/trestle-node.service' 'Trestle: networks over several hosts'; \
	rm -f '$(DESTDIR)$(MANDIR)'/man8/trestle.8 '$(DESTDIR)$(MANDIR)'/man8/trestle-*.8

# The cache of results knows nothing of the plugins that tests execute, hence
# -count. Tests of the kernel wait for it most of the time, hence -parallel, which
# is for each of the packages that run at once: as many as there are CPUs.
# gotestsum says at the end what was skipped, and why; go test keeps that to itself.
test: root deps build peers previous ## all tests, from unit to real kernel and real runtimes (root; in namespaces of their own)
	go tool -modfile=tools/go.mod gotestsum --format pkgname -- -count=1 -parallel 4 -timeout $(TIMEOUT) $$(go list ./... | grep -v /test/runtimes)
	@$(MAKE) --no-print-directory test-runtimes

# `make test` has the quick one.
SOAK ?= full
soak: root deps build ## 20,000 ADDs and DELs by 32 workers, a third of them killed, on a host that nobody is kind to; SOAK=quick, or a number; SOAK_SEED=… repeats a plan
	SOAK='$(SOAK)' go test -count=1 -v -timeout 3h -run TestSoak ./test/soak
	TRESTLE_SEED=$${SOAK_SEED:-0} go test -count=1 -v -timeout 1h -run TestAnyOrder ./test/suite

soak-hosts: root deps build ## what takes longer of networks over several hosts: a slow etcd, a thousand peers, and the model with new seeds
	go run ./test/hosts/soak
	go test -count=1 -v -run TestModel ./pkg/cluster -seed 0 -rounds 2000

# Integers of 32 bits, and the other byte order.
test-arch: DEPS += qemu-s390x-static=qemu-user-static
test-arch: root have-go deps ## unit tests as a 32-bit program (386), and on a big-endian machine that qemu emulates (s390x)
	test/arch/run 386
	test/arch/run s390x '$(CURDIR)/.cache/arch'

# What was found is kept by Go in testdata/fuzz of the package: commit it with the mend. Nothing is made smaller: Go
# would spend a minute on each input that is new to it, and a target of whole processes has no other time than that.
FUZZTIME ?= 20s
FUZZ     ?= .
fuzz: root deps build ## each fuzz target for FUZZTIME (20s): whatever reads bytes, and each plugin as a process; FUZZ=… only those whose package and name match
	@set -e; for package in $$(grep -rl --include='*_test.go' '^func Fuzz' cmd pkg test | xargs -n 1 dirname | sort -u); do \
		for target in $$(cat $$package/*_test.go | sed -n 's/^func \(Fuzz[A-Za-z0-9]*\)(.*/\1/p'); do \
			echo "$$package $$target" | grep -q -- '$(FUZZ)' || continue; \
			echo "== $$package $$target"; \
			go test -timeout 3h -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 0x ./$$package; \
		done; \
	done

# One boot for all tests that need what many a running kernel lacks. RUN takes others there, too: a second kernel.
# It is one program for each package of tests, of which those go that have no such test.
VM     := $(CURDIR)/.cache/vm
RUN    ?= VLAN|OlderKernels|WireGuard|Clock|TheKernelsIPVS
RUN_ASKED := $(if $(filter command,$(firstword $(origin RUN))),'$(RUN)')
ARCH   ?=
TESTED := $(filter-out bench demo kubernetes runtimes,$(patsubst test/%/main_test.go,%,$(wildcard test/*/main_test.go)))
KERNEL ?=
QEMU_arm64 := qemu-system-aarch64=qemu-system-arm
QEMU_s390x := qemu-system-s390x=qemu-system-misc
VM_DEPS    := cpio=cpio modprobe=kmod xz=xz-utils
test-vm: DEPS += $(if $(ARCH),$(QEMU_$(ARCH)),qemu-system-x86_64=qemu-system-x86) $(VM_DEPS) ipvsadm=ipvsadm
test-vm: root deps build peers previous ## the tests of VLANs, of IPVS, of WireGuard, of a clock that jumps, and of proofs that older kernels give, in Debian's kernel, under qemu without KVM; or those of RUN=…; KERNEL=5.10, 6.1 or 6.12 runs nearly all, or adds those of RUN=…, and writes docs/kernels.md; ARCH=arm64 or s390x boots that architecture's kernel
ifneq ($(ARCH)$(KERNEL),)
	test/vm/kernel '$(VM)/$(or $(KERNEL),6.1)$(addprefix -,$(ARCH))' '$(or $(KERNEL),6.1)' '$(or $(ARCH),amd64)' $(RUN_ASKED)
else
	test/vm/prepare '$(VM)'
	rm -rf '$(VM)/tests' && go test -c -o '$(VM)/tests/' $(addprefix ./test/,$(TESTED))
	@cd '$(VM)/tests' && for program in *; do ./$$program -test.list '$(RUN)' | grep -q . || rm $$program; done
	test/vm/run '$(VM)' 'export TRESTLE_VM=1 TRESTLE_BIN="$(TRESTLE_BIN)" TRESTLE_PEERS="$(TRESTLE_PEERS)" TRESTLE_PREVIOUS="$(TRESTLE_PREVIOUS)"; status=0; cd "$(VM)/tests"; \
		for program in *; do (cd "$(CURDIR)/test/$${program%.test}" && "$(VM)/tests/$$program" -test.timeout $(TIMEOUT) -test.run "$(RUN)") || status=1; done; exit $$status'
endif

# What a browser makes of the pages; that they are whole, and load nothing, make test looks at.
test-html: DEPS := chromium=chromium
test-html: have-go deps ## the pages of trestle topology and report in headless Chromium: moved, searched, clicked at, and measured
	go test -count=1 -v -tags chromium -timeout $(TIMEOUT) -run Browser ./cmd/trestle/picture

# Each runs for itself and for some seconds, hence -v.
test-runtimes: root deps runtimes build peers ## containerd, its CRI and podman at work, and a live switch-over
	go test -count=1 -p 1 -v -timeout $(TIMEOUT) ./test/runtimes/...

test-containerd2: root deps runtimes build peers containerd2 ## the same CRI tests on containerd 2, which the first run builds in a minute or two
	TRESTLE_CONTAINERD2='$(CONTAINERD2)' go test -count=1 -v -timeout $(TIMEOUT) -run 'Containerd2' ./test/runtimes

# Kubernetes itself, as one program that has each name: 6 minutes and some 4 GB of Go's build cache at first. It is
# a module of its own, as the versions that it needs are nobody else's.
KUBERNETES          := $(CURDIR)/.cache/kubernetes
KUBERNETES_VERSION  := $(shell sed -n 's|^\tk8s.io/kubernetes \(v.*\)|\1|p' test/kubernetes/kube/go.mod)
KUBERNETES_PROGRAMS := kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl
CONTAINERD          ?=
test-kubernetes: DEPS += ipset=ipset
test-kubernetes: root deps runtimes build peers kubernetes $(if $(filter 2,$(CONTAINERD)),containerd2) ## a real control plane, kubelets and kube-proxies with the DaemonSet of docs/kubernetes.md, which the first run builds in some minutes; CONTAINERD=2 has containerd 2 in place of Debian's, and its STATUS
	TRESTLE_KUBERNETES='$(KUBERNETES)' $(if $(filter 2,$(CONTAINERD)),TRESTLE_CONTAINERD2='$(CONTAINERD2)') \
		go test -count=1 -v -tags kubernetes -timeout 40m ./test/kubernetes

test-kubernetes-ipvs: DEPS += qemu-system-x86_64=qemu-system-x86 $(VM_DEPS) ipset=ipset
test-kubernetes-ipvs: root deps build peers kubernetes ## kube-proxy in mode ipvs with a real API server and etcd, before containers of Trestle's, in Debian's kernel, under qemu without KVM
	test/vm/prepare '$(VM)'
	go test -c -tags kubernetes -o '$(VM)/kubernetes.test' ./test/kubernetes
	MEMORY=3072 LIMIT=3600 test/vm/run '$(VM)' 'export TRESTLE_VM=1 TRESTLE_BIN="$(TRESTLE_BIN)" TRESTLE_PEERS="$(TRESTLE_PEERS)" TRESTLE_KUBERNETES="$(KUBERNETES)"; \
		modprobe -a ip_vs ip_vs_rr dummy nf_conntrack && cd "$(CURDIR)/test/kubernetes" && "$(VM)/kubernetes.test" -test.v -test.timeout 50m -test.run ServicesByIPVS'

# The architectures that the reference plugins are released for, and two more. The whole tree is looked at
# where integers or the kernel's structs are of another width; elsewhere it is enough that it compiles.
ARCHES := amd64 arm64 ppc64le riscv64 s390x loong64
NARROW := arm 386 mips64le
cross: ## compile the plugins for each architecture; the first run takes some 15 seconds for each
	@set -e; for arch in $(ARCHES); do GOARCH=$$arch go build -o /dev/null ./plugins; GOARCH=$$arch go build -o /dev/null ./cmd/trestle; done; \
	for arch in $(NARROW); do GOARCH=$$arch go vet ./...; done

# Its cache remembers where a file stood; another checkout's would name it outside of this one.
lint: have-go cross ## the linters of .golangci.yml, and known vulnerabilities where their database can be asked; the first run builds them, in a minute or two
	GOLANGCI_LINT_CACHE='$(CURDIR)/.cache/golangci-lint' go tool -modfile=tools/go.mod golangci-lint run
	@$(vulncheck-known) || { [ $$? != 3 ] || exit 3; echo 'lint: known vulnerabilities were NOT looked for, since their database could not be asked (see above): make vulncheck' >&2; }

docs: have-go ## rewrite the tables of keys in docs/, docs/cli.md, docs/trestle-node.md and the man pages from what the plugins read and the commands say
	go test -count=1 -run TestPagesHaveTheKeys ./test/repo -update
	go test -count=1 -run TestManual ./cmd/trestle-node -update
	go test -count=1 -run TestManual ./cmd/trestle -update # it lists those of trestle-node, by their page

# What programs do in tests of the suite is counted as well: they are built to count (go build -cover). Tests that count
# system calls, or kill, are left out.
COVER   := $(CURDIR)/.cache/cover
COVERED := $(addprefix ./test/,bridge portmap firewall hostlocal tuning bandwidth static suite trestle hosts fuzz security)
cover: root deps peers ## coverage of unit tests and of the built programs, by package and by function (.cache/cover)
	rm -rf '$(COVER)' && mkdir -p '$(COVER)/bin' '$(COVER)/programs' '$(COVER)/unit'
	go build -trimpath -cover -coverpkg=./pkg/...,./plugins/...,./cmd/... -o '$(COVER)/bin/$(firstword $(PLUGINS))' ./plugins
	go build -trimpath -cover -coverpkg=./pkg/...,./plugins/...,./cmd/... -o '$(COVER)/bin/trestle' ./cmd/trestle
	go build -trimpath -cover -coverpkg=./pkg/...,./plugins/...,./cmd/... -o '$(COVER)/bin/trestle-node' ./cmd/trestle-node
	@for name in $(wordlist 2,99,$(PLUGINS)); do ln -f '$(COVER)/bin/$(firstword $(PLUGINS))' '$(COVER)/bin/'$$name; done
	-GOCOVERDIR='$(COVER)/programs' TRESTLE_BIN='$(COVER)/bin' TRESTLE_PREVIOUS= go test -count=1 -timeout $(TIMEOUT) -skip 'Cost|RunsNo|Syscalls|Messages|Killed|StepFails|Upgrade|LostAnswers|IPAMBench' $(COVERED)
	go test -count=1 -cover -coverpkg=./pkg/... ./pkg/... -args -test.gocoverdir='$(COVER)/unit' >/dev/null
	go tool covdata textfmt -i='$(COVER)/programs,$(COVER)/unit' -o '$(COVER)/profile'
	go tool cover -func '$(COVER)/profile' >'$(COVER)/functions'
	@go tool covdata percent -i='$(COVER)/programs,$(COVER)/unit' | sort; tail -n 1 '$(COVER)/functions'; echo 'by function: $(COVER)/functions; by line: go tool cover -html $(COVER)/profile'

# Left out are tests that count programs, of which setpriv is one here, and those that run the reference's tuning, which
# makes a directory that root cannot enter without CAP_DAC_OVERRIDE.
CAPABILITIES ?= net_admin,sys_admin,net_raw
test-capabilities: root deps build peers previous ## tests of the plugins, which have no other capabilities than CAPABILITIES
	TRESTLE_CAPABILITIES='$(CAPABILITIES)' go test -count=1 -parallel 4 -timeout $(TIMEOUT) \
		-skip 'Cost|RunsNo|Syscalls|Messages|Killed|StepFails|LostAnswers|Programs|BridgeMapsPorts|BridgeOtherIPAM|BridgeKnowsItsCopy|Firewalld|Tuning(SwitchOver|AsReference)' \
		$(addprefix ./test/,bridge portmap firewall hostlocal tuning bandwidth static suite security)

race: DEPS := gcc=build-essential
race: have-go deps ## unit tests under the race detector, which needs a C compiler, and their coverage by package
	CGO_ENABLED=1 go test -race -cover -count=1 -timeout $(TIMEOUT) ./pkg/... ./cmd/...

# The agent that joins hosts is the program in which much happens at once. A race that is seen ends it with 66, and
# the test with it.
RACE := $(CURDIR)/.cache/race
race-hosts: DEPS += gcc=build-essential
race-hosts: root have-go deps peers ## networks over several hosts, by programs that are built with the race detector
	@mkdir -p '$(RACE)'
	CGO_ENABLED=1 go build -race -trimpath -o '$(RACE)/trestle' ./cmd/trestle
	CGO_ENABLED=1 go build -race -trimpath -o '$(RACE)/trestle-node' ./cmd/trestle-node
	CGO_ENABLED=1 go build -race -trimpath -o '$(RACE)/$(firstword $(PLUGINS))' ./plugins
	@for name in $(wordlist 2,99,$(PLUGINS)); do ln -f '$(RACE)/$(firstword $(PLUGINS))' '$(RACE)/'$$name; done
	GORACE=halt_on_error=1 TRESTLE_BIN='$(RACE)' TRESTLE_PREVIOUS= go test -count=1 -timeout $(TIMEOUT) ./test/hosts

# What the database says changes without a change here, and not every machine reaches it: lint fails by what is found
# (exit status 3, which `go run` would not pass on), and says it where it could not look.
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.1.4
vulncheck-known = GOBIN='$(CURDIR)/.cache' go install $(GOVULNCHECK) && timeout 300 .cache/govulncheck ./...
vulncheck: have-go ## ask the Go vulnerability database about this code; needs a way to vuln.go.dev
	$(vulncheck-known)

demo: root deps build peers ## two containers on the default network, in a host of their own
	go run ./test/demo

demo-hosts: root deps build ## three hosts, an etcd of three members, a container on each; a member and a host killed and back
	go run ./test/hosts/demo

# On a quiet machine: what else runs is in the numbers.
BENCH ?= full
bench: DEPS += iperf3=iperf3 perf=linux-perf
bench: root deps build peers ## write docs/benchmarks.md and its pictures: ADD, DEL, GC and data path beside the reference plugins; BENCH=quick takes less than 3 minutes
	go run ./test/bench -size '$(BENCH)' -docs docs

bench-more: root deps runtimes build peers ## further tables, on the terminal: leases on disk, ports by the hundred, pods by containerd
	go run ./test/bench/ipam
	go run ./test/bench/nat
	go run ./test/runtimes/bench

clean: ## remove what make made
	rm -rf bin .cache

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 22
	@echo 'Variables: PREFIX=$(PREFIX) BINDIR=$(BINDIR) MANDIR=$(MANDIR) DESTDIR=$(DESTDIR) RELEASE=$(RELEASE) TIMEOUT=$(TIMEOUT), RUN=$(RUN), KERNEL and ARCH of test-vm, CONTAINERD of test-kubernetes'

# The reference plugins and cnitool: the tools that go.mod names.
peers: have-go
	@mkdir -p '$(TRESTLE_PEERS)'
	@go build -trimpath -ldflags '-s -w' -o '$(TRESTLE_PEERS)/' tool

containerd2: have-go
	@test -x '$(CONTAINERD2)/containerd' || { echo 'building containerd $(CONTAINERD2_VERSION)'; GOBIN='$(CONTAINERD2)' \
		go install -tags no_btrfs,no_devmapper,no_zfs -ldflags '-s -w' $(addprefix $(CONTAINERD2_MODULE)/cmd/,$(addsuffix @$(CONTAINERD2_VERSION),containerd ctr containerd-shim-runc-v2)); }

kubernetes: have-go
	@mkdir -p '$(KUBERNETES)'
	cd test/kubernetes/kube && nice go build -trimpath -o '$(KUBERNETES)/kube' \
		-ldflags '-s -w -X k8s.io/component-base/version.gitVersion=$(KUBERNETES_VERSION) -X k8s.io/client-go/pkg/version.gitVersion=$(KUBERNETES_VERSION)' .
	@for name in $(KUBERNETES_PROGRAMS); do ln -f '$(KUBERNETES)/kube' '$(KUBERNETES)/'$$name; done

# The build of test/previous.commit: a node that runs it is upgraded live.
previous: $(PREVIOUS)/bridge

$(PREVIOUS)/bridge:
	@git cat-file -e $(notdir $(PREVIOUS)) 2>/dev/null || { echo 'test/previous.commit is not in this clone: git fetch --unshallow' >&2; exit 1; }
	@mkdir -p $(@D)/src
	@git archive $(notdir $(PREVIOUS)) | tar -x -C $(@D)/src
	@cd $(@D)/src && go build -trimpath -ldflags '-s -w' -o ../trestle ./cmd/trestle && go build -trimpath -ldflags '-s -w' -o ../.bridge ./plugins
	@for name in $(wordlist 2,99,$(PLUGINS)); do ln -f $(@D)/.bridge $(@D)/$$name; done
	@rm -r $(@D)/src && mv $(@D)/.bridge $@

root:
	@[ "$$(id -u)" = 0 ] || { echo 'this needs root, since it makes network namespaces: sudo env "PATH=$$PATH" make …' >&2; exit 1; }

# sudo has a PATH of its own (secure_path), without the directory that Go is in as
# a rule; and Debian 12's own Go cannot read go.mod.
have-go:
	@command -v go >/dev/null || { echo 'go is not in PATH. Under sudo: sudo env "PATH=$$PATH" make …; where there is none, install Go 1.25 or newer, https://go.dev/doc/install (docs/getting-started.md)' >&2; exit 1; }
	@go list -m >/dev/null || { echo "$$(go version): this needs Go 1.25 or newer, https://go.dev/doc/install (docs/getting-started.md)" >&2; exit 1; }

# Each program that tests, demo and benchmarks run, and the Debian package that has it.
DEPS := ip=iproute2 nft=nftables iptables=iptables conntrack=conntrack ping=iputils-ping \
	strace=strace busybox=busybox-static tcpdump=tcpdump dbus-daemon=dbus-daemon \
	etcd=etcd-server etcdctl=etcd-client

# The same of test-runtimes.
RUNTIMES := containerd=containerd runc=runc podman=podman curl=curl

# Installs the packages of $(1), a list as above, whose programs are missing.
define get-missing
PATH="$$PATH:/usr/sbin:/sbin"; missing=; \
for dep in $(1); do command -v $${dep%%=*} >/dev/null || missing="$$missing $${dep#*=}"; done; \
[ -z "$$missing" ] && exit 0; \
command -v apt-get >/dev/null || { echo "missing; please install:$$missing" >&2; exit 1; }; \
echo "installing$$missing"; export DEBIAN_FRONTEND=noninteractive; \
get() { apt-get install -qq -y --no-install-recommends $$missing; }; \
get >/dev/null 2>&1 || { apt-get update -qq && get; }
endef

# Packages with servers would start them; policy-rc.d forbids it meanwhile.
without-services = policy=/usr/sbin/policy-rc.d; [ -e $$policy ] || [ ! -d /usr/sbin ] || { trap "rm -f $$policy" EXIT; \
	printf '\043!/bin/sh\nexit 101\n' >$$policy; chmod +x $$policy; }

deps:
	@$(without-services); $(call get-missing,$(DEPS))

# Without apt-get the tests of those that are missing are skipped.
runtimes:
	@command -v apt-get >/dev/null || exit 0; $(without-services); $(call get-missing,$(RUNTIMES))

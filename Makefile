# Kanpachi: everything that is done to this repository from outside. `make` says what there is.
#
# Builds run as whoever calls make. Only the lab (network namespaces, /dev/net/tun) is raised, by tests/lab-runner.

CARGO   ?= cargo
BUILD    = $(CARGO) build --release --workspace --bins
RUNNER   = $(CURDIR)/tests/lab-runner
HOST     = $(shell rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')

PREFIX  ?= /usr/local
# Where things go, below DESTDIR. The unit names the program where it will be.
BIN      = $(DESTDIR)$(PREFIX)/bin
MAN      = $(DESTDIR)$(PREFIX)/share/man/man1
SHARE    = $(DESTDIR)$(PREFIX)/share
UNITS    = $(DESTDIR)$(PREFIX)/lib/systemd/system
PROGRAMS = kanpachi kanpachi-coordinator kanpachi-bootstrap

.DEFAULT_GOAL = help
.PHONY: help build test demo bench nat-matrix lint fuzz soak mutants install uninstall deb pages

help:  ## This list
	@echo "Kanpachi, a self-hosted peer-to-peer mesh VPN"; echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

build:  ## The programs, in target/release
	$(BUILD)

test:  ## All tests: unit, property, simulation, lab
	@tests/install-tools cc:gcc ip:iproute2 nft:nftables ping:iputils-ping
	$(BUILD) --tests --examples
	@if $(CARGO) nextest --version >/dev/null 2>&1; then set -- nextest run; else set -- test; fi; \
	echo "$(CARGO) $$* --release --workspace"; \
	CARGO_TARGET_$(HOST)_RUNNER=$(RUNNER) $(CARGO) "$$@" --release --workspace

demo:  ## Three machines form a network on this one, and the coordinator dies (under a minute)
	@tests/install-tools cc:gcc ip:iproute2 nft:nftables ping:iputils-ping
	$(BUILD)
	@$(RUNNER) target/release/demo

bench:  ## Throughput, latency, processor time and memory beside the bare network
	@tests/install-tools cc:gcc ip:iproute2 nft:nftables ping:iputils-ping iperf3:iperf3
	$(BUILD)
	@$(RUNNER) target/release/bench

nat-matrix:  ## Hosts behind every kind of NAT, each against each: which pairs are direct (under 5 minutes)
	@tests/install-tools cc:gcc ip:iproute2 nft:nftables ping:iputils-ping
	$(BUILD)
	@CARGO_TARGET_$(HOST)_RUNNER=$(RUNNER) $(CARGO) test --release --workspace --test nat_matrix -- --nocapture

lint:  ## Formatting, clippy, and cargo-deny where it is installed
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny check bans licenses sources; \
	else echo "cargo-deny is not installed: licences and sources were not checked"; fi

pages: # Man pages and completions, out of the program itself, in target/pages
	@[ -x target/release/kanpachi ] || { echo "run \`make build\` first"; exit 1; }
	@rm -rf target/pages && mkdir -p target/pages/man
	@target/release/kanpachi generate man target/pages/man
	@for shell in bash zsh fish; do \
	    target/release/kanpachi generate completions $$shell >target/pages/kanpachi.$$shell || exit 1; done

install: pages  ## What `make build` made, with unit, man pages and completions, below PREFIX=/usr/local
	install -d $(BIN) $(MAN) $(UNITS) $(SHARE)/bash-completion/completions $(SHARE)/zsh/site-functions \
	    $(SHARE)/fish/vendor_completions.d
	install -m 755 $(PROGRAMS:%=target/release/%) $(BIN)
	@if [ ! -e $(BIN)/hamachi ] || [ "$$(readlink $(BIN)/hamachi)" = kanpachi ]; then \
	    ln -sfn kanpachi $(BIN)/hamachi; else echo "$(BIN)/hamachi is another program and stays"; fi
	install -m 644 target/pages/man/*.1 $(MAN)
	install -m 644 target/pages/kanpachi.bash $(SHARE)/bash-completion/completions/kanpachi
	install -m 644 target/pages/kanpachi.zsh $(SHARE)/zsh/site-functions/_kanpachi
	install -m 644 target/pages/kanpachi.fish $(SHARE)/fish/vendor_completions.d/kanpachi.fish
	sed 's|^ExecStart=/usr/bin/|ExecStart=$(PREFIX)/bin/|' node/packaging/kanpachi.service >$(UNITS)/kanpachi.service
	@chmod 644 $(UNITS)/kanpachi.service
	@echo "now: sudo $(PREFIX)/bin/kanpachi service install"

uninstall:  ## Removes what `make install` put there; first: kanpachi service uninstall
	rm -f $(PROGRAMS:%=$(BIN)/%) $(MAN)/kanpachi.1 $(MAN)/kanpachi-*.1 $(UNITS)/kanpachi.service \
	    $(SHARE)/bash-completion/completions/kanpachi $(SHARE)/zsh/site-functions/_kanpachi \
	    $(SHARE)/fish/vendor_completions.d/kanpachi.fish
	@if [ "$$(readlink $(BIN)/hamachi)" = kanpachi ]; then rm -f $(BIN)/hamachi; fi

deb: pages  ## A Debian package of what `make build` made, in target/debian
	@if ! $(CARGO) deb --version >/dev/null 2>&1; then \
	    echo "cargo-deb is missing: cargo install cargo-deb --locked"; exit 1; fi
	@ln -sfn kanpachi target/pages/hamachi && gzip -9nf target/pages/man/*.1
	$(CARGO) deb --package kanpachi-node --no-build

fuzz:  ## One fuzz target for a while: make fuzz T=tunnel_datagram [TIME=60]
	@tests/fuzz/run "$(T)" $(TIME)

soak:  ## Random schedules in the simulator without end, or for so long: make soak [SECONDS=600]
	@tests/soak $(SECONDS)

mutants:  ## Puts faults into a copy of the source and shows that tests find each: make mutants [F=part of a name]
	@tests/install-tools cc:gcc ip:iproute2 nft:nftables ping:iputils-ping
	$(CARGO) build --release --workspace --bin mutants
	@target/release/mutants "$(F)"

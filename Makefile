# Kanpachi: everything that is done to this repository from outside. `make` says what there is.
#
# Builds run as whoever calls make. Only the lab (network namespaces, /dev/net/tun) is raised, by tests/lab-runner.

CARGO   ?= cargo
BUILD    = $(CARGO) build --release --workspace --bins
RUNNER   = $(CURDIR)/tests/lab-runner
HOST     = $(shell rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')

.DEFAULT_GOAL = help
.PHONY: help build test demo bench lint

help:  ## This list
	@echo "Kanpachi, a self-hosted peer-to-peer mesh VPN"; echo
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

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

lint:  ## Formatting, clippy, and cargo-deny where it is installed
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny check bans licenses sources; \
	else echo "cargo-deny is not installed: licences and sources were not checked"; fi

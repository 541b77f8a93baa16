# Everything a developer does. What runs walcast installs what is missing first (scripts/install).

.DEFAULT_GOAL := help
.PHONY: help dev test oracle planted faults bench lint

help: ## Shows this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1	\2/p' $(MAKEFILE_LIST)

dev: ## A private Postgres with demo data and a server before it
	scripts/install server
	cargo run --release --locked -- dev

test: ## All tests: unit, integration against real Postgres, stock clients in Node
	scripts/install server clients
	cargo test --locked

oracle: ## Verdicts in the stream against Postgres itself, for WALCAST_ORACLE_SECONDS (60)
	scripts/install server
	WALCAST_ORACLE_SECONDS=$${WALCAST_ORACLE_SECONDS:-60} cargo test --release --locked --test it oracle:: -- --nocapture

planted: ## Shows that the oracle sees bugs, by planting some in a copy of the tree
	scripts/install server
	tests/oracle/planted.sh

faults: ## Random faults, races of joins and writes, a large chat, much WAL, and the simulation, all for minutes
	scripts/install server
	WALCAST_FAULTS_SECONDS=300 WALCAST_FAULTS_CLIENTS=60 WALCAST_FAULTS_CALM=1500 WALCAST_RACES=10000 \
		WALCAST_THRONG_SECONDS=60 WALCAST_THRONG_SOCKETS=2000 WALCAST_THRONG_PEOPLE=20000 WALCAST_THRONG_CONVERSATIONS=1000 \
		WALCAST_THRONG_RATE=300 WALCAST_RETENTION_MIB=500 \
		cargo test --locked --release --test it -- --nocapture --test-threads 1 faults:: races:: throng:: retention::
	WALCAST_SIMULATION_SEEDS=100000 cargo test --locked --release --lib -- --nocapture simulation

bench: ## All benchmarks; each prints its figures and its peer
	scripts/install server clients
	cargo bench --locked

lint: ## What must be clean before a commit; needs cargo-deny
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items
	cargo deny check

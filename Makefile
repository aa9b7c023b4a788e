# Two commands do all the set-up: `make run` and `make test`.
.DEFAULT_GOAL := help
.PHONY: help run test test-chaos check bench clean

help:
	@echo 'make run    start a whole node with embedded defaults   (ARGS="--set server.port=9090" to change them)'
	@echo 'make test   everything the tests need, then all tests   (ARGS="-k stow" to choose)'
	@echo 'make test-chaos  hours of faults over every set of backends   (DICOMNODE_CHAOS_SEED=7 for others)'
	@echo 'make check  format, lint, types and the import contract'
	@echo 'make bench  the benchmarks, beside Orthanc and dcmtk'

run:
	@scripts/install --no-default-groups --inexact
	@.venv/bin/dicomnode run $(ARGS)

test:
	@scripts/install
	@scripts/peers dcmtk orthanc dicom3tools gdcm odil ctn dcmjs postgres pgbouncer redis kafka rabbitmq nginx haproxy systemd docker-compose faketime clickhouse servers bindfs
	@scripts/check
	@scripts/test $(ARGS)

test-chaos:
	@scripts/install
	@scripts/peers postgres redis rabbitmq kafka servers faketime
	@DICOMNODE_CHAOS=1 scripts/test tests/chaos tests/plugins/kafka/test_long.py $(ARGS)

check:
	@scripts/install
	@scripts/check

bench:
	@scripts/install
	@scripts/peers dcmtk orthanc orthanc-dicomweb wrk
	@scripts/bench $(ARGS)

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

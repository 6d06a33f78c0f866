# Two commands matter: `make demo` and `make test`. Both set everything up themselves.
PYTHON ?= python3
BIN := .venv/bin
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-quick test-ipvs test-vm fuzz packages lint lock bench clean

.venv/.ready: requirements.lock pyproject.toml hatch_build.py src/kubewire/dns/native/fastpath.c
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: .venv/.ready
	$(BIN)/python examples/demo.py

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

packages:
	tests/install-packages.sh

test: lint packages
	$(BIN)/pytest -n 2 --dist loadgroup
	$(MAKE) test-vm VM=--if-possible VM_TESTS="(ipvs or wireguard) and not e2e"

VM_TESTS = ipvs or wireguard
test-vm: .venv/.ready packages
	$(BIN)/python tests/vm/run.py $(VM) -q --timeout 600 -m "$(VM_TESTS)" -p no:xdist tests/kernel/test_ipvs.py tests/kubeproxy/backends/ipvs tests/kubeproxy/test_switch.py tests/kubeproxy/test_faults.py tests/kernel/test_wireguard.py tests/cni/test_wireguard.py tests/e2e/test_wireguard.py tests/e2e/test_ipvs.py

test-ipvs: .venv/.ready packages
	$(BIN)/python tests/vm/run.py $(VM) -q --timeout 600 -m ipvs -p no:xdist tests/kernel/test_ipvs.py tests/kubeproxy/backends/ipvs tests/kubeproxy/test_switch.py tests/kubeproxy/test_faults.py tests/e2e/test_ipvs.py

test-quick: .venv/.ready
	$(BIN)/pytest -n 2 --dist loadgroup -m "not e2e and not tool" --ignore tests/networkpolicy/test_connections.py

fuzz: .venv/.ready
	FUZZ_TIMES=20 $(BIN)/pytest -q tests/dns/test_sanitizers.py
	PYTHONPATH=. $(BIN)/python tests/dns/fuzz.py -max_total_time=60 $(ARGS)

bench: .venv/.ready
	$(BIN)/python -m bench $(only)

lock:
	uv pip compile --generate-hashes --python-version 3.11 --no-emit-index-url --no-emit-find-links \
	  --group dev pyproject.toml -o requirements.lock --custom-compile-command "make lock"

clean:
	rm -rf .venv

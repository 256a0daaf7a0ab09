# Everything sets up its own environment in .venv from Python 3.11+ alone.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-slow test-torch lint validate bench bench-accuracy bench-scale bench-forecast bench-two-timescale bench-trust bench-trained-fourier bench-shrink bench-shrink-peers bench-peers bench-torch-peers browser-runtime clean

demo: .venv/.ready-demo
	$(BIN)/foretrain demo

test: .venv/.ready-test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# What takes too long to be run at every change; CI runs it as well.
test-slow: .venv/.ready-test
	$(BIN)/python -m pytest -m slow -n 2

# Torch modules as kernels and on the command line. Torch is a large extra, installed here only.
test-torch: .venv/.ready-torch
	$(BIN)/python -m pytest tests/tangent/test_torch_kernel.py tests/tangent/test_torch_modules.py tests/cli/test_forecast_torch.py

lint: .venv/.ready-lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "foretrain needs Python 3.11 or newer; run: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv

.venv/.ready-demo: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing foretrain and what the demo needs into .venv (about a minute)"
	$(PIP) -e ".[all]"
	touch $@

.venv/.ready-test: .venv/.ready-demo
	$(PIP) -e ".[all,test]"
	touch $@

.venv/.ready-torch: .venv/.ready-test
	$(PIP) torch==2.13.0
	touch $@

.venv/.ready-lint: .venv/.ready-demo
	$(PIP) -e ".[all,test,lint]"
	touch $@

# Test error of the infinite-width operator with everything on "auto"; about 8 minutes.
bench-accuracy: .venv/.ready-demo
	$(BIN)/python benchmarks/accuracy.py --json benchmarks/accuracy.json

# Time and memory of the tangent kernel up to a million rows; beside neural-tangents after `make bench-peers`.
bench-scale: .venv/.ready-demo
	$(BIN)/python benchmarks/tangent_scale.py --json benchmarks/tangent_scale.json

# Forecasts beside real training: about two hours of one core; goes on where it was stopped.
bench-forecast: .venv/.ready-demo
	$(BIN)/python benchmarks/forecast.py --json benchmarks/forecast.json

# Two timescales beside Adam at equal rates, ten seeds: hours, nearly all of them Adam's; goes on where it was stopped.
bench-two-timescale: .venv/.ready-demo
	$(BIN)/python benchmarks/two_timescale.py --json benchmarks/two_timescale.json

# Coverage of the band and what the out-of-range score tells apart, twenty splits; under a minute.
bench-trust: .venv/.ready-demo
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/trust.py --json benchmarks/trust.json

# Small trained Fourier operators with everything on "auto", three seeds; goes on where it was stopped.
bench-trained-fourier: .venv/.ready-demo
	$(BIN)/python benchmarks/trained_fourier.py --json benchmarks/trained_fourier.json

PEER := benchmarks/peers/.venv-neural-tangents
bench-peers: $(PEER)/.ready

$(PEER)/.ready: benchmarks/peers/neural-tangents.txt
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13) and "these versions need Python 3.11 or 3.12; run: make bench-peers PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(PEER)
	$(PEER)/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/peers/neural-tangents.txt
	touch $@

# Networks of neuraloperator and DeepXDE, forecast and trained; about three minutes once installed.
TORCH_PEER := benchmarks/peers/.venv-torch-modules
bench-torch-peers: $(TORCH_PEER)/.ready
	OMP_NUM_THREADS=1 $(TORCH_PEER)/bin/python benchmarks/peers/torch_modules.py --json benchmarks/torch_modules.json

$(TORCH_PEER)/.ready: benchmarks/peers/torch-modules.txt pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "foretrain needs Python 3.11 or newer; run: make bench-torch-peers PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(TORCH_PEER)
	$(TORCH_PEER)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r benchmarks/peers/torch-modules.txt -e .
	touch $@

# ONNX Runtime Web from npm, for pages of `foretrain page RUN --runtime .browser-runtime` that need no network.
BROWSER_RUNTIME := onnxruntime-web-1.30.0
browser-runtime: .browser-runtime/package.json

.browser-runtime/package.json:
	@command -v npm > /dev/null || { echo "this needs npm, which comes with Node.js: https://nodejs.org"; exit 1; }
	mkdir -p .browser-runtime
	npm pack --silent --pack-destination .browser-runtime $(subst web-,web@,$(BROWSER_RUNTIME))
	tar -xzf .browser-runtime/$(BROWSER_RUNTIME).tgz -C .browser-runtime --strip-components 1 package/package.json package/dist/ort.wasm.bundle.min.mjs package/dist/ort-wasm-simd-threaded.wasm
	rm .browser-runtime/$(BROWSER_RUNTIME).tgz
	touch $@

# Small models beside FNO and DeepONet; about an hour of one core, goes on where it was stopped.
SHRINK_DATA := benchmarks/peers/data
bench-shrink: .venv/.ready-demo
	$(BIN)/python benchmarks/shrink.py --json benchmarks/shrink.json --data-cache $(SHRINK_DATA)

# Trains those peers on the same functions, where their results are not there yet: about an hour of one core.
SHRINK_PROBLEMS := burgers-0.1-2-pi burgers-0.01 darcy-29x29 advection-ii
SHRINK_PEERS := fno deeponet pod-deeponet
PEER_SECONDS ?= 200
PEER_SECONDS_2D ?= 350
bench-shrink-peers: $(TORCH_PEER)/.ready .venv/.ready-demo
	$(BIN)/python benchmarks/shrink.py --data-cache $(SHRINK_DATA) --write-data
	set -e; for problem in $(SHRINK_PROBLEMS); do for peer in $(SHRINK_PEERS); do \
		result=benchmarks/peers/results/$$problem.$$peer.json; \
		case $$problem in *x*) seconds=$(PEER_SECONDS_2D);; *) seconds=$(PEER_SECONDS);; esac; \
		test -e $$result || OMP_NUM_THREADS=1 $(TORCH_PEER)/bin/python benchmarks/peers/torch_operators.py $$peer \
			$(SHRINK_DATA)/$$problem.npz --json $$result --seconds $$seconds; \
	done; done

# Everything beside everything: this project, networks and kernels of others, ten problems; about two hours on two cores,
# goes on where it was stopped. FIELD="--only darcy --peer-seconds 60" for less.
bench: $(TORCH_PEER)/.ready .venv/.ready-demo
	$(BIN)/python benchmarks/field.py $(FIELD)

# Every problem's solver refined until it converges, how easy the problems are, and a file larger than memory; half an hour.
validate: .venv/.ready-test
	$(BIN)/python validation/problems.py
	$(BIN)/python validation/large_file.py

clean:
	rm -rf .venv .browser-runtime runs build dist .pytest_cache .mypy_cache .ruff_cache

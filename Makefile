.PHONY: example test unit lint conformance clean

example:            ## set up, and build the example image to hello.oci.tar
	sh examples/quickstart.sh

test:               ## set up, and run all tests (as root)
	sh tests/run.sh

unit:               ## the tests that need neither root nor a network
	python -m pytest tests/unit

lint:
	ruff check . && ruff format --check . && mypy

conformance:        ## the recorded builds, where the corpus is at hand
	python -m pytest tests/conformance

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build

# On a fresh machine: make demo, make test, make bench. They install what they need into .venv.
PYTHON ?= python3
BIN := .venv/bin
DEMO := demo
# One more than there are cores, since some tests wait: a quarter less time.
WORKERS := $(shell $(PYTHON) -c 'import os; print(min(8, os.cpu_count() + 1))')

.PHONY: demo test bench fuzz clean-demo

test: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal tests

# Times of all tasks beside their references; FLAGS=--help lists what can be set.
bench: .venv/installed
	$(BIN)/python -m benchmarks $(FLAGS)

# The property tests with many more examples.
fuzz: .venv/installed
	HYPOTHESIS_PROFILE=long $(BIN)/python -m pytest -q -n auto -m hypothesis tests

# Draws a data set, trains on it, measures, and draws detections on images held out.
demo: .venv/base
	$(BIN)/python -m utils.data.demo_data --folder $(DEMO)
	$(BIN)/python voc_annotation.py --VOCdevkit_path $(DEMO)/VOCdevkit \
	    --classes_path $(DEMO)/classes.txt --lists_dir $(DEMO)
	$(BIN)/python train.py --train_list $(DEMO)/2007_train.txt --val_list $(DEMO)/2007_val.txt \
	    --save_dir $(DEMO)/logs --backbone mobilenetv2 --backbone_weights= \
	    --input_shape 260 260 --epochs 10 --learning_rate 4e-3 --eval_period 5
	$(BIN)/python get_map.py --test_list $(DEMO)/2007_test.txt --save_dir $(DEMO)/logs \
	    --map_out_path $(DEMO)/map_out
	$(BIN)/python predict.py $(DEMO)/held_out --save_dir $(DEMO)/logs \
	    --dir_save_path $(DEMO)/img_out

.venv/base: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -r requirements.txt
	touch $@

.venv/installed: .venv/base tests/requirements.txt
	$(BIN)/python -m pip install -r tests/requirements.txt
	touch $@

clean-demo:
	rm -rf $(DEMO)

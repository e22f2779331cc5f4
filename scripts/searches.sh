#!/usr/bin/env bash
# The searches of the README and of scripts/README.md, one after another.
#   scripts/searches.sh CIFAR_FOLDER OUT_FOLDER
# Digits takes minutes on two cores; those of CIFAR-10 had one core each, on which the first two took
# 63 and 86, and learned from labels, as was default then. Figures depend on the number of threads.
set -euo pipefail
usage="usage: scripts/searches.sh CIFAR_FOLDER OUT_FOLDER"
cifar="${1:?$usage}" out="${2:?$usage}"

mbnas search --space search_spaces/digits.yaml --budget 6e6 --out "$out/digits-6e+06-seed0"

export OMP_NUM_THREADS=1

mbnas search --space search_spaces/resnet8-cifar10.yaml --budget 8e7 --data "$cifar" \
    --out "$out/resnet8-cifar10-8e+07-seed0" --set retraining.teacher=null

# The recipe of resnet20.yaml is for a GPU; this is what a CPU core does in an hour and a half.
mbnas search --space search_spaces/resnet20.yaml --budget 2e8 --data "$cifar" \
    --out "$out/resnet20-2e+08-seed0" --evaluations 48 --retrain 3 \
    --set "choices.weight_bases=[1,2,3]" --set "choices.activation_bases=[1,2,3]" \
    --set data.train_images=10000 \
    --set supernet.epochs=8 --set supernet.sampled=1 --set supernet.guard_images=128 \
    --set search.population=12 --set search.images=300 --set search.recalibration_images=512 \
    --set retraining.epochs=8 --set retraining.guard_images=128 --set retraining.teacher=null \
    --set test.images=500 --set test.runs=2

# Trained naturally, by the recipe that helps a binary network most.
mbnas search --space search_spaces/resnet8-cifar10.yaml --budget 2e7 --data "$cifar" \
    --out "$out/resnet8-natural-2e+07-seed0" --set name=resnet8-natural \
    --set data.image_size=16 --set data.shift=2 \
    --set threat.eps=2/255 --set threat.step=0.5/255 \
    --set backbone.prelu=true --set backbone.averaged_shortcuts=true \
    --set supernet.training=natural --set supernet.epochs=15 --set supernet.optimizer=muon \
    --set supernet.learning_rate=0.02 --set supernet.weight_surrogate=tanh \
    --set search.images=2000 \
    --set retraining.training=natural --set retraining.epochs=10 --set retraining.optimizer=muon \
    --set retraining.learning_rate=0.02 --set retraining.weight_surrogate=tanh

#!/bin/sh
# The three kinds of day on the demo LMM: find directions, answer, analyse. Run again, it resumes.
set -eu
steer="${VENV:-.venv}/bin/lmmsteer"
out="${OUT:-runs/demo}"
attributes=gender,age,body_type,skin_tone
start=$(date +%s)

# Log-odds of the first answer token saturate on so small a model: layers are chosen by mentions.
"$steer" fit -m method=steered_dataset attribute=$attributes dataset=demo_fit \
    method.score=mentions method.held_out=24 out="$out"
"$steer" generate -m method=unsteered,prompt_howard,random_direction,steered_dataset \
    attribute=$attributes dataset=demo dataset.images="${IMAGES:-120}" out="$out"
"$steer" analyze out="$out"
"$steer" report out="$out"
echo "The demo took $(($(date +%s) - start)) s."

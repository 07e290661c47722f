#!/bin/sh
# Every method on the demo LMM, and the tables of docs/methods.md. Run again, it resumes.
set -eu
bin="${VENV:-.venv}/bin"
out="${OUT:-runs/methods}"
attributes=gender,age,body_type,skin_tone
eval="dataset=demo dataset.images=${IMAGES:-60}"

"$bin/lmmsteer" fit -m method=steered_dataset attribute=$attributes dataset=demo_fit \
    method.score=mentions method.held_out=24 out="$out"
"$bin/lmmsteer" fit -m method=ala,prompt_predicted,sfid,clip_clip,dear,ggss attribute=$attributes \
    dataset=demo_fit out="$out"
"$bin/lmmsteer" generate -m attribute=$attributes $eval out="$out" \
    method=unsteered,prompt_howard,prompt_predicted,blocklist,random_direction,steered_dataset,steered_gradient,ala_ba,ala_n,vdd,sfid,clip_clip,dear,ggss
"$bin/lmmsteer" generate -m attribute=$attributes $eval out="$out" \
    method=ala_n method.name=ala_n_magnitude method.magnitude=true
"$bin/lmmsteer" generate -m attribute=$attributes $eval out="$out" \
    method=compose 'method.methods=[steered_gradient,{name: ala_n, magnitude: true}]'
"$bin/lmmsteer" analyze out="$out"
"$bin/lmmsteer" report out="$out"
"$bin/python" -m analysis.compare "$out"

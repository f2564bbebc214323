"""Track the objects in a video and count those that cross a line.

    pip install supervision trackers
    python examples/count_crossings.py clip.mp4 best.pth 0 240 640 240

The four numbers are the ends of the line, x1 y1 x2 y2 in pixels. Seen from the first end, looking
at the second, "in" is from right to left.
"""

import sys
from pathlib import Path

import supervision as sv
from trackers import ByteTrackTracker

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the folder of this project

from ssd import SSD  # noqa: E402


def count_crossings(detector: SSD, video: str, line: tuple[int, int, int, int], *,
                    confidence: float = 0.5) -> tuple[int, int]:
    """Return how many objects cross the line (in, out)."""
    x1, y1, x2, y2 = line
    zone = sv.LineZone(sv.Point(x1, y1), sv.Point(x2, y2), [sv.Position.CENTER])
    tracker = ByteTrackTracker(frame_rate=sv.VideoInfo.from_video_path(video).fps,
                               track_activation_threshold=confidence,
                               high_conf_det_threshold=confidence)
    for frame in sv.get_video_frames_generator(video):
        detections = detector.detect(frame, bgr=True, confidence=confidence).to_supervision()
        tracked = tracker.update(detections)
        zone.trigger(tracked[tracked.tracker_id >= 0])
    return zone.in_count, zone.out_count


if __name__ == "__main__":
    video, weights, *numbers = sys.argv[1:]
    print("in {}, out {}".format(*count_crossings(SSD(weights), video, tuple(map(int, numbers)))))

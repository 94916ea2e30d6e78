"""Reading and writing clips: containers, frames, and the record of how a clip was made."""

"""What an exported model says about itself to other people's readers.

tflite.py   TFLite Model Metadata (MediaPipe Tasks, ML Kit, LiteRT support library) in a `.tflite` file
"""

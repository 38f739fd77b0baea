"""What turns text into scores. Serving needs numpy, tokenizers and onnxruntime; training needs torch."""

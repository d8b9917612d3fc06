"""Vision-language-action models that others trained: from pictures, joints and a sentence to a chunk of joints."""

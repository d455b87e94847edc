"""What an evaluation leaves behind: tables on the screen, JSON, pictures, TensorBoard's projector."""

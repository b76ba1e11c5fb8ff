"""Files of answers and questions in the forms of this and of other projects."""

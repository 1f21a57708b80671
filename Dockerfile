# The web server with a trained bundle: no TensorFlow. Train first (`make pipeline`), then `docker build -t chest-ct .`
FROM python:3.12-slim-bookworm
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOST=0.0.0.0
WORKDIR /app
COPY requirements-serve.txt .
RUN pip install --no-cache-dir -r requirements-serve.txt
COPY . .
RUN useradd --uid 10001 --create-home app && mkdir -p logs && chown app logs
USER 10001
EXPOSE 8080
HEALTHCHECK --start-period=20s CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://localhost:8080/readyz')"]
CMD ["python3", "app.py"]
